"""Radloom: study folders in; denoised, registered, translated, segmented volumes and a report out.

The package holds its version and nothing else, so that importing it costs nothing. The rooms:

- :mod:`radloom.pipelines`: *when*; the stages in order, studies, receipts, the runner.
- :mod:`radloom.models`: *what* is estimated or learned.
- :mod:`radloom.transforms`: *how* voxels change, nothing learned.
- :mod:`radloom.bundles`: MONAI bundles, data only.
"""

__version__ = "0.1.0"
