"""Every error that Radloom raises on purpose.

::

    RadloomError
    ├── InputError                  what the user gave cannot be used
    │   ├── ConfigError             a workflow file, parameter file or argument
    │   ├── SeriesRefused           a series that cannot become a volume; carries a ReasonCode
    │   └── GridMismatch            two volumes that should share a grid do not
    ├── MissingWeights              a bundle is there, its weights are not: the stage is skipped
    ├── NotTrusted                  code would run from a file that --trust does not cover
    ├── PacsFailed                  a PACS refused something, or the way to it broke
    └── StageFailed                 a stage gave up on one study; the others go on
        └── OutOfMemory             after every step down was tried

Messages say what was expected, what came, where, and the repair. They never hold a patient's name,
ID or birth date: `where` is a path relative to the folder that the user named, or a UID.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "ConfigError",
    "GridMismatch",
    "InputError",
    "MissingWeights",
    "NotTrusted",
    "OutOfMemory",
    "PacsFailed",
    "RadloomError",
    "ReasonCode",
    "SeriesRefused",
    "StageFailed",
]


class ReasonCode(str, Enum):
    """Why a series was refused, split or skipped; stable words that scripts may rely on."""

    NOT_AN_IMAGE = "not_an_image"
    """The object has no pixels (report, presentation state, raw data)."""
    LOCALIZER = "localizer"
    """A scout or localizer: planes of mixed orientation, made for planning."""
    SECONDARY_CAPTURE = "secondary_capture"
    """A screenshot or a derived picture without patient geometry."""
    COLOUR = "colour"
    """More than one sample per pixel."""
    UNSUPPORTED_MODALITY = "unsupported_modality"
    """A modality that no stage works on (US, XA, SEG, ...)."""
    MISSING_GEOMETRY = "missing_geometry"
    """Position, orientation or pixel spacing is absent."""
    MIXED_ORIENTATION = "mixed_orientation"
    """Slices of one series point in different directions."""
    MIXED_SIZE = "mixed_size"
    """Slices of one series differ in rows, columns or pixel spacing."""
    MISSING_SLICE = "missing_slice"
    """One or more slice positions are absent."""
    DUPLICATE_SLICE = "duplicate_slice"
    """Several slices at one position, and nothing in the headers tells them apart."""
    UNEVEN_SPACING = "uneven_spacing"
    """Slice distances differ by more than the tolerance."""
    GANTRY_TILT = "gantry_tilt"
    """The slice stack is sheared."""
    TOO_FEW_SLICES = "too_few_slices"
    """A single slice, or fewer than a volume needs."""
    TRUNCATED = "truncated"
    """A file ends before its pixels do, or is empty."""
    UNREADABLE = "unreadable"
    """A file cannot be opened or decoded."""
    CODEC_MISSING = "codec_missing"
    """No installed decoder knows the transfer syntax."""
    AMBIGUOUS_UNITS = "ambiguous_units"
    """The rescaling differs within the series or is absent where the modality demands it."""
    SUV_UNKNOWN = "suv_unknown"
    """SUV was asked for, and the headers lack what it takes or contradict themselves."""
    INVALID_AFFINE = "invalid_affine"
    """A NIfTI, NRRD or MHA file whose affine is singular or not finite."""
    NOT_FINITE = "not_finite"
    """Some voxels are NaN or infinite, and nothing says what they stand for."""
    TILT_CORRECTED = "tilt_corrected"
    """The slice stack was sheared, and was resampled to a straight grid as the workflow allows."""
    SPACING_RESAMPLED = "spacing_resampled"
    """Slice distances differed, and slices were interpolated as the workflow allows."""
    BURNED_IN_ANNOTATION = "burned_in_annotation"
    """De-identification was asked for, and the header says that the pixels show text."""
    NOT_DEFACED = "not_defaced"
    """Defacing was asked for, and the volume is no MR or CT of a head to cut a face from."""
    SPLIT_SERIES = "split_series"
    """One SeriesInstanceUID held several volumes; this is one of them."""
    TIME_SERIES = "time_series"
    """A 4D series: kept as one file, not carried through the chain."""
    DIFFUSION = "diffusion"
    """A diffusion series: kept as one file, not carried through the chain."""
    NOT_A_HEAD_VOLUME = "not_a_head_volume"
    """Converted, but no stage of the workflow takes it (no role)."""

    @property
    def is_fault(self) -> bool:
        """Whether a series refused for it is a scan with a fault, which a person should look at.

        The others are what a scanner makes besides volumes, or volumes that no stage takes.

        >>> ReasonCode.MISSING_SLICE.is_fault, ReasonCode.LOCALIZER.is_fault
        (True, False)
        """
        return self in _FAULTS


_FAULTS = frozenset(
    {
        ReasonCode.MISSING_GEOMETRY,
        ReasonCode.MIXED_ORIENTATION,
        ReasonCode.MIXED_SIZE,
        ReasonCode.MISSING_SLICE,
        ReasonCode.DUPLICATE_SLICE,
        ReasonCode.UNEVEN_SPACING,
        ReasonCode.GANTRY_TILT,
        ReasonCode.TRUNCATED,
        ReasonCode.UNREADABLE,
        ReasonCode.CODEC_MISSING,
        ReasonCode.AMBIGUOUS_UNITS,
        ReasonCode.SUV_UNKNOWN,
        ReasonCode.INVALID_AFFINE,
        ReasonCode.NOT_FINITE,
    }
)


class RadloomError(Exception):
    """The root of every error raised on purpose."""


class InputError(RadloomError, ValueError):
    """What the user gave cannot be used."""


class ConfigError(InputError):
    """A workflow file, a parameter file or an argument says something impossible."""


class SeriesRefused(InputError):
    """A series cannot become a volume.

    Attributes:
        code: the stable reason.
        detail: one sentence for people: expected, got, where, repair.
    """

    def __init__(self, code: ReasonCode, detail: str) -> None:
        super().__init__(f"{code.value}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type[SeriesRefused], tuple[ReasonCode, str]]:
        return type(self), (self.code, self.detail)


class GridMismatch(InputError):
    """Two volumes that should share a grid do not."""


class MissingWeights(RadloomError):
    """A bundle is there, its weights are not."""


class NotTrusted(RadloomError):
    """Code would run from a file that the user has not declared trusted."""


class PacsFailed(RadloomError):
    """A PACS refused something, or the way to it broke.

    Attributes:
        passing: whether the same may succeed when it is tried again after a while.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class StageFailed(RadloomError):
    """A stage gave up on one study."""


class OutOfMemory(StageFailed):
    """Memory ran out after every step down was tried."""
