"""Which fields a sidecar should have and does not: said in the sidecar itself, never filled in.

Sources: BIDS 1.10, "Magnetic Resonance Imaging data" (recommended for anatomy, required for time
series and diffusion) and "Positron Emission Tomography" (required). BIDS knows no CT; its list is
what tells one reconstruction from another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["missing_fields"]

SCANNER = ("Manufacturer", "ManufacturersModelName")

WANTED: Mapping[str, tuple[str, ...]] = {
    "MR": (
        *SCANNER,
        "MagneticFieldStrength",
        "MRAcquisitionType",
        "ScanningSequence",
        "SequenceVariant",
        "RepetitionTime",
        "EchoTime",
        "FlipAngle",
        "SliceThickness",
    ),
    "CT": (*SCANNER, "KVP", "ConvolutionKernel", "SliceThickness"),
    "PT": (
        *SCANNER,
        "Units",
        "TracerName",
        "TracerRadionuclide",
        "InjectedRadioactivity",
        "InjectedRadioactivityUnits",
        "InjectedMass",
        "ModeOfAdministration",
        "TimeZero",
        "ScanStart",
        "InjectionStart",
        "FrameTimesStart",
        "FrameDuration",
        "AcquisitionMode",
        "ImageDecayCorrected",
        "ImageDecayCorrectionTime",
        "ReconMethodName",
        "AttenuationCorrection",
    ),
}
"""Modality (0008,0060) -> fields of a volume."""

WANTED_IN_4D: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("MR", "time_series"): ("SliceTiming",),
    ("MR", "diffusion"): ("DiffusionBValue", "DiffusionGradientOrientation"),
}
"""Modality and reason code -> fields beside those of a volume."""


def missing_fields(modality: str, reason: str, known: Collection[str]) -> tuple[str, ...]:
    """The fields that a sidecar of this kind should have and that are not among the known.

    >>> missing_fields("CT", "", {"Manufacturer", "KVP", "SliceThickness"})
    ('ManufacturersModelName', 'ConvolutionKernel')
    """
    wanted = (*WANTED.get(modality, ()), *WANTED_IN_4D.get((modality, reason), ()))
    return tuple(name for name in wanted if name not in known)
