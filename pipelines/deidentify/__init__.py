"""De-identification: DICOM by PS3.15's Basic Profile, NIfTI, NRRD, MHA and sidecars likewise.

::

    keys      the key file, and what it makes of patients, UIDs and days
    profile   the actions of PS3.15 Table E.1-1, read from actions.yaml
    words     descriptions reduced to known words, identifiers looked for in what stays
    dicom     one DICOM object                  sidecars  one BIDS sidecar
    images    one NIfTI, NRRD or MHA file       records   what `run --deidentify` writes
    folder    a folder into another
"""

from radloom.pipelines.deidentify.folder import deidentify_folder, write_crosswalk
from radloom.pipelines.deidentify.keys import Pseudonyms, make_key, read_key
from radloom.pipelines.deidentify.profile import Options
from radloom.pipelines.deidentify.records import deidentify_records

__all__ = [
    "Options",
    "Pseudonyms",
    "deidentify_folder",
    "deidentify_records",
    "make_key",
    "read_key",
    "write_crosswalk",
]
