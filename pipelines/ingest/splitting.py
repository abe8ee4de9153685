"""What tells the volumes of one series apart, and which slices belong together: headers alone.

A SeriesInstanceUID may hold several echoes, magnitude and phase, water and fat, two reconstruction
kernels, many moments or many diffusion directions at the same slice positions. `SPLITS` are those
that become volumes of their own; `volumes_in_time` and `volumes_of_diffusion` are those that stay
together as one 4D image. Nothing is split by the order in which files came.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from radloom.pipelines.ingest.headers import SliceHeader
from radloom.pipelines.ingest.names import alphanumeric
from radloom.transforms.dicom import SlicePlane, group_by_position

__all__ = [
    "SPLITS",
    "InTime",
    "Split",
    "acquisition_volumes",
    "alike",
    "is_diffusion",
    "planes_of",
    "volumes_in_time",
    "volumes_of_diffusion",
]

Group: TypeAlias = list[SliceHeader]

ECHO_TOLERANCE_MS = 0.005
"""Echo times closer than this are one echo: headers hold two to nine digits of milliseconds."""

MAX_PHASES = 8
"""A CT scanned over again has a few phases of a contrast agent, each a volume of its own; with more
acquisitions it is a dynamic scan, and stays together in time."""

COMPONENT_TYPES = frozenset({"M", "P", "R", "I", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY"})
"""Words of ImageType that say the component, which is a split of its own."""

PART_LABELS = {"M": "mag", "P": "phase", "R": "real", "I": "imag", "": "unknown"}
"""BIDS labels of the entity part."""

TYPE_LABELS = {
    "W": "water",
    "F": "fat",
    "IP": "inphase",
    "OP": "outphase",
    "IN_PHASE": "inphase",
    "OUT_PHASE": "outphase",
    "OPP_PHASE": "outphase",
}
"""What the words of Dixon images stand for."""


@dataclass(frozen=True)
class Split:
    """One thing in which volumes of a series differ."""

    entity: str
    """BIDS entity that carries the difference in the file's name."""
    told_by: str
    """The header that says it, for people."""
    key: Callable[[SliceHeader], Hashable]
    """The value of a slice; slices of one volume share it."""
    always: bool = True
    """Whether a difference counts where no position repeats: two echoes never make one volume,
    while words of ImageType may differ within one."""
    unit: str = ""

    def groups(self, slices: Sequence[SliceHeader]) -> dict[Hashable, Group]:
        """Slices by value, in the order of the values."""
        groups: dict[Hashable, Group] = defaultdict(list)
        for header in slices:
            groups[self.key(header)].append(header)
        return dict(sorted(_joined(groups).items(), key=lambda item: _sortable(item[0])))

    def labels(self, values: Sequence[Hashable]) -> list[str]:
        """A BIDS label for each value, no two the same."""
        if self.entity == "part":
            return [PART_LABELS[str(value)] for value in values]
        if self.entity == "rec":
            return _word_labels(values)
        if all(isinstance(value, tuple) for value in values):
            return _word_labels([value[:1] for value in values if isinstance(value, tuple)])
        return [str(number) for number in range(1, len(values) + 1)]

    def text(self, value: Hashable, n: int) -> str:
        """Why a volume stands alone, for people."""
        said = " ".join(str(v) for v in value) if isinstance(value, tuple) else f"{value}"
        said = "none" if said in ("", "-1.0") else said
        return f"{self.told_by}: {said}{self.unit and ' '}{self.unit}, one of {n} in the series"


def _known(value: float | None) -> float:
    return -1.0 if value is None else float(value)


def _kind(header: SliceHeader) -> tuple[str, ...]:
    """The words of ImageType without those that say the component."""
    words = header.frame_type or header.image_type
    return tuple(
        word
        for index, word in enumerate(words)
        if index < 2 or not COMPONENT_TYPES.intersection(word.split("_"))
    )


SPLITS = (
    Split("part", "component", lambda h: h.component),
    Split("rec", "ConvolutionKernel (0018,1210)", lambda h: h.kernel),
    Split("echo", "EchoTime (0018,0081)", lambda h: _known(h.echo_time_ms), unit="ms"),
    Split("rec", "ImageType (0008,0008)", _kind, always=False),
    Split(
        "inv",
        "InversionTime (0018,0082)",
        lambda h: _known(h.inversion_time_ms),
        always=False,
        unit="ms",
    ),
    Split(
        "flip",
        "FlipAngle (0018,1314)",
        lambda h: _known(h.flip_angle),
        always=False,
        unit="degrees",
    ),
)
"""In the order in which they are tried; a volume may be split by several."""


def _joined(groups: Mapping[Hashable, Group]) -> dict[Hashable, Group]:
    """Groups whose values are numbers that differ by rounding alone, as one."""
    if not all(isinstance(value, float) for value in groups):
        return dict(groups)
    joined: dict[Hashable, Group] = {}
    first = last = -float("inf")
    for value in sorted(float(str(v)) for v in groups):
        if value - last > ECHO_TOLERANCE_MS:
            first = value
            joined[first] = []
        joined[first] += groups[value]
        last = value
    return joined


def _word_labels(values: Sequence[Hashable]) -> list[str]:
    """Labels from the words that not all values share, numbered where they are not enough."""
    words = [tuple(v) if isinstance(v, tuple) else (str(v),) for v in values]
    shared = set.intersection(*(set(w) for w in words)) if words else set()
    labels = []
    for own in words:
        differing = [TYPE_LABELS.get(str(w), str(w).lower()) for w in own if w not in shared]
        labels.append(alphanumeric("".join(differing)) if "".join(differing) else "plain")
    twice = Counter(labels)
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):
        seen[label] += 1
        if twice[label] > 1:
            labels[index] = f"{label}{seen[label]}"
    return labels


@dataclass(frozen=True)
class InTime:
    """Volumes that belong together, and what told them apart."""

    volumes: tuple[tuple[SliceHeader, ...], ...]
    """In order; the slices of each in order of position."""
    told_by: str


TIME_COLUMNS = (
    "TemporalPositionIndex (0020,9128)",
    "TemporalPositionIdentifier (0020,0100)",
    "TriggerTime (0018,1060)",
    "AcquisitionNumber (0020,0012)",
)
"""What `SliceHeader.temporal` holds first, in its order."""


def volumes_in_time(slices: Sequence[SliceHeader]) -> InTime | None:
    """The moments of a series, each with every slice position once; None where nothing tells them.

    The first header that does is taken. GE writes no time into echo-planar series: instance numbers
    then run through one volume after the other, which is checked against the positions.
    """
    candidates = [
        ("FrameReferenceTime (0054,1300)", _by_moment(slices, lambda h: h.reference_s)),
        *(
            (name, _by_moment(slices, lambda h, i=index: _column(h, i)))  # type: ignore[misc]
            for index, name in enumerate(TIME_COLUMNS)
        ),
        ("the start of acquisition", _by_moment(slices, lambda h: h.acquired_s)),
        ("the file", _by_file(slices)),
        ("blocks of InstanceNumber (0020,0013)", _blocks(slices)),
    ]
    for name, groups in candidates:
        if alike(groups):
            return InTime(tuple(tuple(_in_place(group)) for group in groups), name)
    return None


def volumes_of_diffusion(slices: Sequence[SliceHeader]) -> InTime | None:
    """The weightings of a diffusion series, each with every position once, in order of acquisition.

    One weighting may come several times: its repeats are told apart as moments are. None where
    nothing tells which images belong together.
    """
    weightings: dict[Hashable, Group] = defaultdict(list)
    for header in slices:
        weightings[header.b_value or 0.0, _rounded(header.gradient)].append(header)
    volumes: list[Group] = []
    for group in weightings.values():
        if _is_once(group):
            volumes.append(group)
            continue
        repeats = volumes_in_time(group)
        if repeats is None:
            return None
        volumes += [list(volume) for volume in repeats.volumes]
    if not alike(volumes):
        return None
    volumes.sort(key=lambda v: min((h.instance_number, h.frame) for h in v))
    return InTime(tuple(tuple(_in_place(v)) for v in volumes), "b-value and gradient direction")


def acquisition_volumes(slices: Sequence[SliceHeader]) -> Split | None:
    """The split of a CT into the phases of a contrast agent, where its acquisitions are that."""
    split = Split("acq", "AcquisitionNumber (0020,0012)", lambda h: h.acquisition_number)
    groups = list(split.groups(slices).values())
    return split if len(groups) <= MAX_PHASES and alike(groups) else None


def is_diffusion(slices: Sequence[SliceHeader]) -> bool:
    """Whether several diffusion weightings, or ImageType, say so.

    Toshiba and Canon name a b-value only where it is above zero.
    """
    values = {h.b_value or 0.0 for h in slices}
    return len(values) > 1 or "DIFFUSION" in slices[0].image_type


def alike(groups: Iterable[Sequence[SliceHeader]]) -> bool:
    """Whether there are several groups, each with every one of the same positions once."""
    groups = list(groups)
    if len(groups) < 2 or len({len(group) for group in groups}) > 1:
        return False
    every = group_by_position(planes_of([h for group in groups for h in group]))
    return len(every) == len(groups[0]) and all(_is_once(group) for group in groups)


def planes_of(slices: Sequence[SliceHeader]) -> list[SlicePlane]:
    """Where the slices lie."""
    return [h.plane for h in slices if h.plane is not None]


def _is_once(group: Sequence[SliceHeader]) -> bool:
    return all(len(same) == 1 for same in group_by_position(planes_of(group)))


def _in_place(group: Sequence[SliceHeader]) -> Group:
    return [group[i] for same in group_by_position(planes_of(group)) for i in same]


def _by_moment(
    slices: Sequence[SliceHeader], key: Callable[[SliceHeader], Hashable | None]
) -> list[Group]:
    """Slices by the value of `key`, in its order; none where some slice has no value."""
    groups: dict[Hashable, Group] = defaultdict(list)
    for header in slices:
        value = key(header)
        if value is None:
            return []
        groups[value].append(header)
    return [groups[value] for value in sorted(groups, key=_sortable)]


def _column(header: SliceHeader, index: int) -> str | None:
    value = header.temporal[index] if index < len(header.temporal) else ""
    return value or None


def _by_file(slices: Sequence[SliceHeader]) -> list[Group]:
    """Multi-frame files that hold a moment each, in order of their instance numbers."""
    numbers: dict[str, int] = {h.path: h.instance_number for h in slices}
    if any(h.n_frames < 2 for h in slices) or len(set(numbers.values())) < len(numbers):
        return []
    return _by_moment(slices, lambda h: h.instance_number)


def _blocks(slices: Sequence[SliceHeader]) -> list[Group]:
    n = len(group_by_position(planes_of(slices)))
    if len({h.instance_number for h in slices}) < len(slices):
        return []
    ordered = sorted(slices, key=lambda h: h.instance_number)
    return [ordered[i : i + n] for i in range(0, len(ordered), n)]


def _rounded(gradient: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """A direction to five digits; None for none, and for the zeros that stand for none."""
    if gradient is None or not any(gradient):
        return None
    return tuple(round(value, 5) + 0.0 for value in gradient)


def _sortable(value: Hashable) -> tuple[float, str]:
    try:
        return float(str(value)), ""
    except ValueError:
        return float("inf"), str(value)
