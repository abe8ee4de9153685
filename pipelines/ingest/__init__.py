"""Ingestion: a folder becomes studies, a series' files become a volume or a refusal with a code.

::

    scan      what each file is                     verdicts  how many volumes a series holds
    headers   one DICOM header as plain values      units     what its numbers mean
    files     NIfTI, NRRD, MHA and sidecars         roles     t1, t2, flair, ct, ...
    discovery studies and series of a folder        naming    one series a role, unique names
    pixels    the voxels, through highdicom         dcm2niix  the voxels of 4D series and mosaics
    stage     ingestion as a stage                  listing   rows for people and scripts
"""

from radloom.pipelines.ingest.discovery import discover
from radloom.pipelines.ingest.listing import inspect_rows
from radloom.pipelines.ingest.pixels import read_image, read_series
from radloom.pipelines.ingest.stage import IngestStage

__all__ = ["IngestStage", "discover", "inspect_rows", "read_image", "read_series"]
