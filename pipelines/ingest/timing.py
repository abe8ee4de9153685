"""When the volumes and slices of a 4D series were acquired, for its sidecar; seconds, never dates.

Names are those of BIDS: ``VolumeTiming`` (start of each volume after the first), ``SliceTiming``
(start of each slice after its volume's), ``FrameTimesStart`` and ``FrameDuration`` for PET.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radloom.pipelines.ingest.headers import SliceHeader
from radloom.pipelines.ingest.verdicts import Part, volumes_of

__all__ = ["timing_of"]

DIGITS = 6
"""Microseconds: what DICOM times hold."""


def timing_of(part: Part) -> dict[str, Any]:
    """What headers say of a 4D part's times; only what all its volumes say."""
    volumes = volumes_of(part)
    if part.slices[0].modality == "PT":
        return _frames(volumes)
    timing: dict[str, Any] = {}
    starts = _starts(volumes)
    if starts:
        timing["VolumeTiming"] = starts
    slices = _slice_times(volumes[0], part)
    if slices:
        timing["SliceTiming"] = slices
    return timing


def _frames(volumes: Sequence[Sequence[SliceHeader]]) -> dict[str, Any]:
    frames: dict[str, Any] = {}
    starts = _starts(volumes)
    durations = [volume[0].duration_s for volume in volumes]
    if starts:
        frames["FrameTimesStart"] = starts
    if all(duration is not None for duration in durations):
        frames["FrameDuration"] = durations
    return frames


def _starts(volumes: Sequence[Sequence[SliceHeader]]) -> list[float]:
    """Seconds from the first volume's start to each one's; none unless they differ."""
    moments = [[h.acquired_s for h in volume if h.acquired_s is not None] for volume in volumes]
    if any(len(known) < len(volume) for known, volume in zip(moments, volumes, strict=True)):
        return []
    starts = [min(known) for known in moments]
    if len(set(starts)) < len(starts):
        return []
    return [round(start - starts[0], DIGITS) for start in starts]


def _slice_times(volume: Sequence[SliceHeader], part: Part) -> list[float]:
    """Seconds from a volume's start to each slice's, in order of K."""
    n_slices = part.geometry.shape[2] if part.geometry is not None else 0
    if volume[0].mosaic:
        known = list(volume[0].slice_times_s)
        return known if len(known) == n_slices and len(set(known)) > 1 else []
    moments = [h.acquired_s for h in volume if h.acquired_s is not None]
    repetition = volume[0].facts.get("RepetitionTime")
    if len(moments) < n_slices or len(set(moments)) < 2 or not repetition:
        return []
    times = [round(moment - min(moments), DIGITS) for moment in moments]
    return times if max(times) < float(repetition) else []
