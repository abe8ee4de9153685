"""Ingestion: a folder becomes studies, a series' files become a volume or a refusal with a code.

::

    scan      which files there are                 examine   each of them looked at once
    archives  zip files                             index     what earlier looks found out
    elements  where a header's elements lie         headers   one DICOM header as plain values
    verdicts  how many volumes a series holds       units     what its numbers mean
    splitting what tells its volumes apart          gradients directions of diffusion
    files     NIfTI, NRRD, MHA and sidecars         roles     t1, t2, flair, ct, ...
    discovery studies and series of a folder        naming    one series a role, unique names
    pixels    the voxels, through highdicom         dcm2niix  the voxels of 4D series and mosaics
    stage     ingestion as a stage                  listing   rows for people and scripts
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radloom.pipelines.ingest.discovery import discover
    from radloom.pipelines.ingest.listing import inspect_rows
    from radloom.pipelines.ingest.pixels import read_image, read_series
    from radloom.pipelines.ingest.stage import IngestStage

__all__ = ["IngestStage", "discover", "inspect_rows", "read_image", "read_series"]

_HOMES = {
    "IngestStage": "stage",
    "discover": "discovery",
    "inspect_rows": "listing",
    "read_image": "pixels",
    "read_series": "pixels",
}
"""Name -> the module that is imported when it is asked for: headers are read without torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
