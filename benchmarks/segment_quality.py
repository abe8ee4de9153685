"""Dice of a head segmentation: rendered heads, a real labelled T1, contrasts of one real patient.

``rendered``: heads that the training did not see, without deformation or anomalies, by protocols
of physics: T1, T2, FLAIR, PD with shading and weak noise; T1 with Rician noise of 9 % of the 99th
percentile; T1 in slices of 4 mm (mean of four planes; of the labels the most frequent). Dice over
the structures of the brain that are there.

``labelled``: a skull-stripped real T1 and FreeSurfer's automatic labels. CSF (24), which those mark
hardly anywhere, and labels that the model has no class for (corpus callosum, hypointensities) are
left out.

``patients``: T1, T2 and FLAIR of each date, on their own grids. Of each structure the standard
deviation of its volume between the contrasts over their mean, and left less right over their mean;
Dice between T1 and T2, T1 and FLAIR, on the first one's grid after a rigid registration. Of each
patient with two dates the difference of a structure's volume over its mean, of one contrast.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from radloom.models.segmentation.classes import CLASSES, class_of_label
from radloom.models.training.anatomies import load_anatomies
from radloom.pipelines.report.figures import draw_segment
from radloom.pipelines.segment import segment
from radloom.shapes import LabelVolume, Volume, affine_of, array_of, make_volume, spatial_shape
from radloom.transforms.nifti import read_nifti
from radloom.transforms.spatial import resample
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.anomalies import AnomalyRecipe
from radloom.transforms.synthesis.artefacts import MRAcquisitionRecipe, add_rician_noise
from radloom.transforms.synthesis.deformation import DeformationParameters
from radloom.transforms.synthesis.edits import EditParameters
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.mr import CONTRASTS
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleRecipe,
    draw_sample,
    render_sample,
)

__all__ = ["CASES", "PARTS", "Settings", "quality"]

Classes = npt.NDArray[np.uint8]
Volumes = npt.NDArray[np.float64]

CASES = ("t1", "t2", "flair", "pd", "t1 noise 9", "t1 slices 4")
PARTS = ("rendered", "labelled", "patients")
AIR_MM = 8
"""Round the rendered heads."""
CSF = 24
CHOROID_PLEXUS = {31: 4, 63: 43}
"""FreeSurfer's label -> the ventricle that holds it, as the generator's maps have it."""
BRAIN = tuple(n for n, item in enumerate(CLASSES) if 0 < item.label < 500)
CHANNEL_OF = np.zeros(1024, np.uint8)
CHANNEL_OF[[item.label for item in CLASSES]] = np.arange(len(CLASSES))


@dataclass(frozen=True)
class Settings:
    """What is measured and where its data lie."""

    heads: Path
    """Label maps or packed anatomies."""
    data: Path
    """Holds real/labelled, real/ms and studies/ms01."""
    work: Path
    """Where tables and pictures go."""
    model: Path | None = None
    """Another model with our classes; None: the bundle."""
    n_heads: int = 4
    cases: tuple[str, ...] = CASES
    parts: tuple[str, ...] = PARTS
    patients: int = 6
    """Dates of patients at most."""
    fast: bool = False
    threads: int = 2


@dataclass(frozen=True)
class Measured:
    """One image against the truth."""

    case: str
    dice: Mapping[str, float]
    """Structure -> Dice."""
    seconds: float

    @property
    def mean(self) -> float:
        """Over the structures."""
        return float(np.mean(list(self.dice.values())))


def quality(settings: Settings) -> None:
    """Measure, print tables in Markdown, and leave pictures and Dice by structure in `work`."""
    settings.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    found: list[Measured] = []
    if "rendered" in settings.parts:
        found += rendered(settings)
    if "labelled" in settings.parts:
        found += labelled(settings)
    if found:
        report(found)
        write_structures(found, settings.work / "dice.tsv")
    if "patients" in settings.parts:
        patients(settings)


def report(found: Sequence[Measured]) -> None:
    print("| images | n | mean Dice, brain | least of an image | weakest structure | seconds |")
    print("|---|---|---|---|---|---|")
    for case in dict.fromkeys(one.case for one in found):
        every = [one for one in found if one.case == case]
        weakest = min(of_structures(every).items(), key=lambda item: item[1])
        print(
            f"| {case} | {len(every)} | {np.mean([one.mean for one in every]):.3f} | "
            f"{min(one.mean for one in every):.3f} | {weakest[0]} {weakest[1]:.3f} | "
            f"{np.mean([one.seconds for one in every]):.1f} |",
            flush=True,
        )


def of_structures(found: Sequence[Measured]) -> dict[str, float]:
    """Structure -> mean Dice over the images that have it."""
    names = dict.fromkeys(name for one in found for name in one.dice)
    return {
        name: float(np.mean([one.dice[name] for one in found if name in one.dice]))
        for name in names
    }


def write_structures(found: Sequence[Measured], path: Path) -> None:
    cases = list(dict.fromkeys(one.case for one in found))
    columns = {case: of_structures([one for one in found if one.case == case]) for case in cases}
    lines = ["\t".join(["structure", *cases])]
    for item in CLASSES[1:]:
        values = [columns[case].get(item.name) for case in cases]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        lines.append("\t".join([item.name, *cells]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def labels_of(image: Volume, settings: Settings) -> tuple[LabelVolume, float]:
    """What the model says, and the seconds that it takes."""
    begin = time.perf_counter()
    label, _ = segment(image, settings.model, n_threads=settings.threads, fast=settings.fast)
    return label, time.perf_counter() - begin


def classes_of(label: LabelVolume) -> Classes:
    return CHANNEL_OF[array_of(label)[0]]


def dice(
    found: Classes, true: Classes, counted: npt.NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Structure of the brain -> Dice, of those that are in `true`."""
    if counted is not None:
        found, true = found[counted], true[counted]
    pairs = found.ravel().astype(np.int64) * len(CLASSES) + true.ravel()
    table = np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape((len(CLASSES),) * 2)
    sizes = table.sum(0) + table.sum(1)
    there = [n for n in BRAIN if table[:, n].any()]
    return {CLASSES[n].name: float(2 * table[n, n] / sizes[n]) for n in there}


def picture(image: Volume, label: LabelVolume, path: Path) -> None:
    names = {item.label: item.name for item in CLASSES[1:]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw_segment(image, label, names))


def rendered(settings: Settings) -> Iterator[Measured]:
    for number, anatomy in enumerate(load_anatomies(settings.heads)[: settings.n_heads]):
        for name in settings.cases:
            image, true = case_of(anatomy, name, number)
            label, seconds = labels_of(image, settings)
            file = f"head{number}_{name.replace(' ', '_')}.png"
            picture(image, label, settings.work / "pictures" / file)
            one = Measured(f"rendered {name}", dice(classes_of(label), true), seconds)
            print(f"head {number} {name}: {one.mean:.3f}", flush=True)
            yield one


def case_of(anatomy: Anatomy, name: str, number: int) -> tuple[Volume, Classes]:
    """Image and true classes; the same arguments give the same voxels."""
    contrast, *more = name.split(" ")
    i, j, k = (n + 2 * AIR_MM for n in anatomy.grid.shape)
    recipe = SampleRecipe(
        grid=GridRecipe((i, j, k), offset=0.0),
        mr=CONTRASTS[contrast],
        anomalies=AnomalyRecipe(probability=0.0),
        mr_acquisition=MRAcquisitionRecipe(nearly_clean=1.0),
    )
    generator = torch.Generator().manual_seed(100 * number + CASES.index(name))
    drawn = draw_sample(anatomy, recipe, generator)
    still = {"edits": EditParameters(), "deformation": DeformationParameters()}
    seen = render_sample(anatomy, replace(drawn, grid=Grid((i, j, k)), **still), ("image", "label"))
    image, true = seen["image"][0], class_of_label(seen["label"])[0].numpy()
    thick = 1
    if more[:1] == ["noise"]:
        image = add_rician_noise(image, float(more[1]) / 100, generator)
    if more[:1] == ["slices"]:
        thick = int(more[1])
        image, true = mean_of_planes(image, thick), most_of_planes(true, thick)
    affine = np.diag([1.0, 1.0, thick, 1.0])
    return make_volume(image, affine, modality="MR", units="arbitrary"), true


def mean_of_planes(image: torch.Tensor, n: int) -> torch.Tensor:
    """(I, J, K // n) The mean of each `n` planes along K."""
    whole = image.shape[2] // n * n
    return image[..., :whole].unflatten(2, (-1, n)).mean(3)


def most_of_planes(classes: Classes, n: int) -> Classes:
    """(I, J, K // n) The most frequent class of each `n` planes along K, the lowest of a tie."""
    whole = classes.shape[2] // n * n
    parts = classes[..., :whole].reshape(*classes.shape[:2], -1, n)
    best, result = np.zeros(parts.shape[:3], np.uint8), np.zeros(parts.shape[:3], np.uint8)
    for value in range(len(CLASSES)):
        count = (parts == value).sum(3, dtype=np.uint8)
        result[count > best] = value
        best = np.maximum(best, count)
    return result


def labelled(settings: Settings) -> Iterator[Measured]:
    folder = settings.data / "real" / "labelled"
    image = read_nifti(folder / "t1_brain.nii.gz")
    given = array_of(read_nifti(folder / "t1_aseg.nii.gz"))[0].astype(np.int64)
    for own, other in CHOROID_PLEXUS.items():
        given[given == own] = other
    true = class_of_label(torch.from_numpy(given)).numpy()
    known = (true != CHANNEL_OF[CSF]) & ~((given > 0) & (true == 0))
    true[~known] = 0
    label, seconds = labels_of(image, settings)
    picture(image, label, settings.work / "pictures" / "labelled_t1.png")
    yield Measured("real labelled T1", dice(classes_of(label), true, known), seconds)


def dates(settings: Settings) -> Iterator[tuple[str, str, dict[str, Path]]]:
    """Patient, date and files of each date of which T1, T2 and FLAIR are here."""
    folders = [*sorted((settings.data / "studies" / "ms01").glob("date*"))]
    folders += sorted((settings.data / "real" / "ms").glob("patient*"))
    for folder in folders:
        for study in ("study1", "study2"):
            found = {
                role: folder / f"{study}_{name}.nii.gz"
                for role, name in (("t1", "T1W"), ("t2", "T2W"), ("flair", "FLAIR"))
            }
            if all(path.is_file() for path in found.values()):
                by_folder = folder.name.startswith("date")
                patient = folder.parent.name if by_folder else folder.name
                yield patient, folder.name if by_folder else study, found


def patients(settings: Settings) -> None:
    print("| patient, date | contrasts | left-right | Dice T1-T2 | Dice T1-FLAIR |")
    print("|---|---|---|---|---|")
    volumes: dict[str, list[dict[str, Volumes]]] = {}
    for patient, date, paths in list(dates(settings))[: settings.patients]:
        images = {role: read_nifti(path) for role, path in paths.items()}
        labels = {role: labels_of(image, settings)[0] for role, image in images.items()}
        for role, image in images.items():
            file = f"{patient}_{date}_{role}.png"
            picture(image, labels[role], settings.work / "pictures" / file)
        found = {role: volumes_of(label) for role, label in labels.items()}
        volumes.setdefault(patient, []).append(found)
        cells = [variation(list(found.values())), asymmetry(list(found.values()))]
        cells += agreement(images, labels, settings)
        print(f"| {patient}, {date} | {' | '.join(f'{x:.3f}' for x in cells)} |", flush=True)
    print("| patient | contrast | difference between two dates |\n|---|---|---|")
    for patient, every in volumes.items():
        for role in every[0] if len(every) > 1 else ():
            pair = [found[role] for found in every[:2]]
            print(f"| {patient} | {role} | {variation(pair) * 2**0.5:.3f} |")


def agreement(
    images: Mapping[str, Volume], labels: Mapping[str, LabelVolume], settings: Settings
) -> list[float]:
    """Mean Dice of the labels of T1 with those of T2 and FLAIR, registered by their images."""
    from radloom.models.registration.elastix import register

    grid = affine_of(images["t1"]), spatial_shape(images["t1"])
    found = []
    for role in ("t2", "flair"):
        moves = register(images["t1"], images[role], transform="rigid", n_threads=settings.threads)
        moved = resample(labels[role], moves, *grid)
        between = dice(classes_of(moved), classes_of(labels["t1"]))
        found.append(float(np.mean(list(between.values()))))
    return found


def volumes_of(label: LabelVolume) -> Volumes:
    """(n classes,) mm3."""
    counts = np.bincount(classes_of(label).ravel(), minlength=len(CLASSES))
    return counts * abs(np.linalg.det(affine_of(label)[:3, :3]))


def variation(every: Sequence[Volumes]) -> float:
    """Deviation of a structure's volume over its mean, median over the brain; CSF left out."""
    table = np.array(every)
    table = table[:, [n for n in BRAIN if CLASSES[n].label != CSF and table[:, n].any()]]
    return float(np.median(table.std(axis=0, ddof=1) / table.mean(axis=0)))


def asymmetry(every: Sequence[Volumes]) -> float:
    """Left less right over their mean, without sign: median over the brain's pairs and images."""
    sides = {item.name: n for n, item in enumerate(CLASSES) if n in BRAIN}
    pairs = [(n, sides[f"right {name[5:]}"]) for name, n in sides.items() if name[:5] == "left "]
    left, right = (np.array(every)[:, list(side)] for side in zip(*pairs, strict=True))
    return float(np.median(abs(left - right) / np.maximum((left + right) / 2, 1)))
