"""The stage that draws: the last of a study, from what all stages before it gave."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from radloom import __version__
from radloom.pipelines.report.figures import (
    draw_denoise,
    draw_ingest,
    draw_register,
    draw_segment,
    draw_translate,
)
from radloom.pipelines.stage import Check, Context, StageResult
from radloom.pipelines.study import Output, Study

__all__ = ["ReportStage"]

_LOG = logging.getLogger(__name__)

_REVISION = "1"
"""Raised whenever the pictures of the same input change."""


@dataclass(frozen=True)
class _Picture:
    """A picture still to be drawn."""

    stage: str
    role: str
    draw: Callable[[], bytes]
    name: str = ""
    """The output's name; the stage's where it has one picture of a role."""
    entities: Mapping[str, str] = field(default_factory=dict)
    """BIDS parts that tell its file from others of the same stage and role."""
    sidecar: Mapping[str, str] = field(default_factory=dict)

    def output(self, png: bytes) -> Output:
        """The picture, drawn."""
        return Output(
            kind="report",
            role=self.role,
            name=self.name or self.stage,
            source=png,
            entities=self.entities,
            sidecar={"stage": self.stage, **self.sidecar},
        )


@dataclass(frozen=True)
class ReportStage:
    """Draws what each stage did, as PNG outputs that `write_report` puts on a page.

    A picture that cannot be drawn is left out and counted in a check; it never fails the study.
    """

    @property
    def name(self) -> str:
        """``report``."""
        return "report"

    def fingerprint(self) -> str:
        """Of the drawing's revision and the version."""
        return hashlib.sha256(f"report {_REVISION} {__version__}".encode()).hexdigest()

    def input_hashes(self, study: Study) -> Mapping[str, str]:
        """Every written file of the stages before."""
        return {
            path: digest
            for stage, outputs in study.outputs.items()
            if stage != self.name
            for output in outputs
            for path, digest in output.files.items()
        }

    def estimate_memory(self, study: Study) -> int:
        """Three planes and a coarse copy of a volume at a time."""
        largest = max((o.n_voxels for o in _volumes(study)), default=0)
        return 64 * 2**20 + 2 * largest

    def least_memory(self, study: Study) -> int:
        """The same and three volumes, read for one picture."""
        largest = max((o.n_voxels for o in _volumes(study)), default=0)
        return 64 * 2**20 + (2 + 3 * 4) * largest

    def run(self, study: Study, context: Context) -> StageResult:  # noqa: ARG002 - the protocol's
        """A PNG for each volume ingested, denoised, registered, translated and segmented."""
        outputs, missing = [], []
        for picture in _pictures(study):
            try:
                png = picture.draw()
            except Exception as error:  # noqa: BLE001 - a picture must never cost a study
                missing.append(f"{picture.stage} {picture.role}".strip())
                _LOG.warning(
                    "%s: no picture of %s: %s",
                    study.record.key, missing[-1], type(error).__name__,
                )  # fmt: skip
                continue
            outputs.append(picture.output(png))
        which = f" Not drawn: {', '.join(missing)}." if missing else ""
        check = Check(
            "pictures_missing", float(len(missing)), high=0.0,
            meaning=f"Pictures that could not be drawn.{which}",
        )  # fmt: skip
        return StageResult(outputs=tuple(outputs), checks=(check,))


def _volumes(study: Study) -> tuple[Output, ...]:
    return study.find(kind="volume") + study.find(kind="label")


def _pictures(study: Study) -> Iterator[_Picture]:
    yield from _ingested(study)
    yield from _denoised(study)
    yield from _registered(study)
    yield from _translated(study)
    yield from _segmented(study)


def _ingested(study: Study) -> Iterator[_Picture]:
    uids = {series.series_uid: series.description for series in study.record.series}
    for output in study.find(kind="volume", stage="ingest"):
        suffix = {} if output.role else {"mod": output.entities.get("suffix", "")}
        kept = {k: v for k, v in output.entities.items() if k not in ("suffix", "datatype")}
        yield _Picture(
            "ingest",
            output.role,
            partial(_draw, draw_ingest, output),
            entities={**kept, **suffix},
            sidecar={"series": uids.get(str(output.volume.meta.get("series_uid", "")), "")},
        )


def _denoised(study: Study) -> Iterator[_Picture]:
    for output in study.find(kind="volume", stage="denoise"):
        before = study.find(kind="volume", stage="ingest", role=output.role)
        if before:
            yield _Picture("denoise", output.role, partial(_draw, draw_denoise, before[0], output))


def _registered(study: Study) -> Iterator[_Picture]:
    for output in study.find(kind="volume", stage="register"):
        if output.space:
            fixed, moving = study.latest(output.space), study.latest(output.role)
            draw = partial(_draw, draw_register, fixed, moving, output)
            yield _Picture("register", output.role, draw)


def _translated(study: Study) -> Iterator[_Picture]:
    for output in study.find(kind="volume", stage="translate"):
        role = output.space or output.role
        is_ct = output.volume.meta.get("units") == "HU" and output.name != "uncertainty"
        if is_ct and role in study.roles:
            draw = partial(_draw, draw_translate, _before(study, role, "translate"), output)
            yield _Picture("translate", role, draw)


def _segmented(study: Study) -> Iterator[_Picture]:
    seen: set[str] = set()
    for output in study.find(kind="label", stage="segment"):
        role = output.space or output.role
        name = f"segment-{output.name}" if role in seen else "segment"
        seen.add(role)
        image = _before(study, role, "segment")
        draw = partial(_draw_labels, image, output)
        yield _Picture("segment", role, draw, name=name)


def _before(study: Study, role: str, stage: str) -> Output:
    """The newest volume of `role` on its own grid that `stage` did not make itself."""
    own = set(map(id, study.outputs.get(stage, ())))
    volumes = [o for o in study.find(kind="volume", role=role) if not o.space and id(o) not in own]
    return volumes[-1]


def _draw(draw: Callable[..., bytes], *outputs: Output) -> bytes:
    return draw(*(output.volume for output in outputs))


def _draw_labels(image: Output, label: Output) -> bytes:
    return draw_segment(image.volume, label.volume, label.label_names)
