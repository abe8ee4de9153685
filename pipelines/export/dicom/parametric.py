"""A volume of physical quantities, such as an attenuation map, as Parametric Map.

Values stay float32, voxel by voxel as they are, and name their quantity and unit; a classic CT
image could say neither cm-1 nor a fraction of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from radloom.geometry import flip_lps_ras, parts_from_affine
from radloom.pipelines.export.dicom.geometry import require_grid_of
from radloom.pipelines.export.dicom.heading import Heading, finish, require
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries, content_digest
from radloom.pipelines.export.dicom.source import SourceSeries
from radloom.pipelines.export.naming import SPACE_LABELS
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Study
from radloom.shapes import Volume, array_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "ATTENUATION",
    "PER_CM",
    "QUANTITIES",
    "check_parametric_map",
    "parametric_map_dataset",
    "parametric_series",
]

ATTENUATION = ("112031", "DCM", "Attenuation Coefficient")
"""The quantity of an attenuation map, CID 7180 and 4033."""

PER_CM = ("/cm", "UCUM", "/cm")
"""Its unit: one over a centimetre."""

Coded = tuple[str, str, str]

QUANTITIES: Mapping[str, tuple[Coded, Coded]] = {
    "attenuation": (ATTENUATION, PER_CM),
    "uncertainty": (
        ("EXPECTEDERROR", "99RADLOOM", "Expected absolute error of CT number"),
        ("[hnsf'U]", "UCUM", "Hounsfield unit"),
    ),
}
"""Name of a volume that is a map of a quantity, not an image -> quantity and unit."""

POSITION_TOLERANCE_MM = 1e-3
"""How far a frame may lie from its slice."""


def parametric_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """A map for each volume of the study that holds one of `QUANTITIES`.

    Raises:
        NoDicomSource: the volume on whose grid it lies came from no DICOM.
    """
    for output in study.find(kind="volume"):
        if output.name not in QUANTITIES or not output.role:
            continue
        grid = desk.source(output.space or output.role)
        onto = f" on {SPACE_LABELS.get(output.space, output.space)}" if output.space else ""
        heading = desk.heading(
            "parametric",
            f"{output.role}/{output.name}/{output.space}",
            f"{SPACE_LABELS.get(output.role, output.role)} {output.name}{onto}",
            content_digest(output),
            grid,
        )
        quantity, unit = QUANTITIES[output.name]
        volume = output.volume
        yield ObjectSeries(
            kind="parametric",
            role=output.role,
            name=output.name,
            space=output.space,
            datasets=(parametric_map_dataset(volume, heading, grid, quantity=quantity, unit=unit),),
            check=partial(
                check_parametric_map, volume=volume, grid=grid, where=heading.description
            ),
        )


def parametric_map_dataset(
    volume: Volume,
    heading: Heading,
    grid: SourceSeries,
    *,
    quantity: tuple[str, str, str] = ATTENUATION,
    unit: tuple[str, str, str] = PER_CM,
) -> Dataset:
    """One finished Parametric Map, a frame for each slice of `volume` (1, I, J, K).

    Args:
        volume: on the grid of `grid`.
        heading: of the series; its sources are what the map was made from.
        grid: whose frame of reference it shares.
        quantity: code value, scheme and meaning of what is measured.
        unit: code value, scheme (UCUM) and meaning of its unit.

    Raises:
        GridMismatch: the volume does not lie on the grid.
    """
    import highdicom as hd

    require_grid_of(volume, grid, heading.description)
    origin, spacing, direction = parts_from_affine(flip_lps_ras(grid.affine))
    frames = np.ascontiguousarray(array_of(volume)[0].transpose(2, 1, 0), dtype=np.float32)
    low, high = float(frames.min()), float(frames.max())
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=quantity[2][:16],
        lut_explanation=f"{quantity[2]} in {unit[2]}"[:64],
        unit=hd.sr.CodedConcept(*unit),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=hd.sr.CodedConcept(*quantity),
    )
    positions = [
        hd.PlanePositionSequence("PATIENT", (origin + direction[:, 2] * spacing[2] * k).tolist())
        for k in range(frames.shape[0])
    ]
    dataset: Any = hd.pm.ParametricMap(
        source_images=list(grid.datasets),
        pixel_array=frames,
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation((low + high) / 2, 1.0)],
        pixel_measures=hd.PixelMeasuresSequence(
            (spacing[1], spacing[0]), spacing[2], spacing_between_slices=spacing[2]
        ),
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", direction[:, :2].T.ravel()),
        plane_positions=positions,
        content_label="PARAMETRIC_MAP",
        content_description=heading.series_description,
        derived_pixel_contrast="QUANTITY",
        **heading.arguments(),
    )
    # a window of 0.2 in width is one that checkers refuse; viewers scale such values themselves
    del dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence
    dataset.FrameOfReferenceUID = grid.frame_of_reference_uid
    return finish(dataset, heading)


def check_parametric_map(
    datasets: Sequence[Dataset], *, volume: Volume, grid: SourceSeries, where: str
) -> Iterable[Check]:
    """Nothing, if each frame holds its slice's voxels, at its place.

    Raises:
        StageFailed: it does not.
    """
    dataset = datasets[0]
    array = array_of(volume)[0]
    shape = (int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))
    require(shape == array.shape[::-1], where, f"frames {array.shape[::-1]}", shape)
    frames = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(shape)
    affine_lps = flip_lps_ras(grid.affine)
    seen = set()
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        index = np.linalg.solve(affine_lps[:3, :3], position - affine_lps[:3, 3])
        k = round(float(index[2]))
        away = float(np.abs(affine_lps[:3, 3] + affine_lps[:3, 2] * k - position).max())
        require(away <= POSITION_TOLERANCE_MM, where, "a frame at its slice", f"{away:g} mm away")
        same = np.array_equal(frame, array[:, :, k].T)
        require(same, f"{where}, slice {k}", "the volume's voxels", "others")
        seen.add(k)
    require(len(seen) == array.shape[2], where, "each slice once", len(seen))
    return ()
