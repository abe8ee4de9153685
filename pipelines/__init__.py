"""When: the stages in the order in which a study meets them.

::

    discover    pipelines.ingest      a folder -> records of studies and series, headers only
    ingest      pipelines.ingest      files -> volumes, roles, refusals with a reason code
    denoise     pipelines.denoise     a volume -> the same grid, noise removed
    register    pipelines.register    fixed, moving -> moving_from_fixed, moving on fixed's grid
    translate   pipelines.translate   MR -> pseudo-CT in HU
    segment     pipelines.segment     a volume -> integer labels on its own grid, volumes in mL
    report      pipelines.report      what the stages gave -> pictures; all studies -> one page

What carries them:

- :mod:`radloom.pipelines.study`: what travels between stages.
- :mod:`radloom.pipelines.stage`: how one stage runs on one study; its receipt and all that keeps a
  kill from costing anything is in :mod:`radloom.pipelines.receipts`.
- :mod:`radloom.pipelines.workflow`: which stages, in which order, with which parameters.
- :mod:`radloom.pipelines.runner`: every study of a folder through a workflow; the processes that
  it uses, and what they do, are in :mod:`radloom.pipelines.engine`.
- :mod:`radloom.pipelines.single`: one image through one method, from file to file.
- :mod:`radloom.pipelines.export`: files, tables and the manifest.
- :mod:`radloom.pipelines.status`: what has become of a run.
- :mod:`radloom.pipelines.demo`: a phantom study to try it on.
"""
