"""Whether a pseudo-CT keeps what is rare: calcifications, and brain that was taken out.

Each head of anatomy/validation is rendered at 1 mm as T1 and T2 by the generator's physics, three
times with one look: as it is; with calcifications of 2 to 16 mm in its brain; with a resection,
filled by CSF and half by air. Reported for each set of weights named (a folder of a bundle a set):

- calcifications: how much of the HU that one adds is found, ``(found with - found without) /
  (true with - true without)``, each the mean over the voxels of which it takes more than half:
  median and 10th percentile over calcifications, and the share of them that adds less than a
  quarter;
- resections: the same of the HU that air takes away, and the mean absolute error in the part that
  CSF fills;
- the mean absolute error in the whole head as it is, and Dice of bone above 250 HU.

Run from the repository root, with the data beside the checkout or their folder named::

    python benchmarks/translate_anomalies.py [DATA] --models before=FOLDER after=FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from radloom.models.training.anatomies import load_anatomies
from radloom.models.translation.tissues import BOUNDS_HU
from radloom.pipelines.translate import translate
from radloom.shapes import array_of, make_volume
from radloom.transforms.synthesis.anatomy import Anatomy
from radloom.transforms.synthesis.anomalies import AnomalyRecipe
from radloom.transforms.synthesis.artefacts import MRAcquisitionRecipe
from radloom.transforms.synthesis.deformation import DeformationParameters
from radloom.transforms.synthesis.edits import EditParameters, ResectionParameters
from radloom.transforms.synthesis.fields import Grid
from radloom.transforms.synthesis.mr import CONTRASTS
from radloom.transforms.synthesis.sample import (
    GridRecipe,
    SampleParameters,
    SampleRecipe,
    draw_sample,
    render_sample,
)

Floats = npt.NDArray[np.float32]

AIR_MM = 8
"""Round the head; below it there is none, for there the map ends and the neck goes on."""
CONTRAST_NAMES = ("t1", "t2")
CALCIFICATIONS = AnomalyRecipe(
    probability=1.0, most=8, weights=(("calcification", 1.0),), radius_mm=(1.0, 8.0),
    reach_mm=(50.0, 65.0, 50.0),
)  # fmt: skip
RESECTION = ResectionParameters((0.5, 0.5, 0.7), 35.0, 20.0, air=True)
LEAST_HU = 100.0
"""What a calcification adds at least, to be counted."""
FEWEST_VOXELS = 4


@dataclass(frozen=True)
class Look:
    """One head with one thing changed, or none."""

    mr: torch.Tensor
    hu: Floats
    anomaly: npt.NDArray[np.uint8]
    structures: npt.NDArray[np.uint8]


def looks(anatomy: Anatomy, contrast: str, seed: int) -> dict[str, Look]:
    """``plain``, ``calcified``, ``resected``: the same scanner, pose and noise."""
    i, j, k = (n + 2 * AIR_MM for n in anatomy.grid.shape)
    recipe = SampleRecipe(
        grid=GridRecipe((i, j, k), offset=0.0),
        mr=CONTRASTS[contrast],
        anomalies=CALCIFICATIONS,
        mr_acquisition=MRAcquisitionRecipe(nearly_clean=1.0),
    )
    drawn = draw_sample(anatomy, recipe, torch.Generator().manual_seed(seed))
    drawn = replace(
        drawn, grid=Grid((i, j, k)), edits=EditParameters(), deformation=DeformationParameters()
    )
    none = replace(drawn, anomalies=())
    cut = replace(none, edits=EditParameters(resection=RESECTION))
    return {
        name: seen(anatomy, parameters)
        for name, parameters in (("plain", none), ("calcified", drawn), ("resected", cut))
    }


def seen(anatomy: Anatomy, parameters: SampleParameters) -> Look:
    names = ("image", "ct_hu", "anomaly", "structures")
    tensors = render_sample(anatomy, parameters, names)
    image, hu, anomaly, structures = (tensors[n][..., AIR_MM + 2 :] for n in names)
    return Look(image, hu[0].numpy(), anomaly[0].numpy(), structures[0].numpy())


def predicted(look: Look, model: Path, n_threads: int) -> Floats:
    affine = np.eye(4)
    affine[:3, 3] = -(np.array(look.mr.shape[1:]) - 1) / 2
    mr = make_volume(look.mr, affine, modality="MR", units="arbitrary")
    return array_of(translate(mr, model, n_threads=n_threads, trust=True).hu)[0].astype(np.float32)


def measured(found: dict[str, Floats], true: dict[str, Look]) -> Iterator[dict[str, object]]:
    """A row a thing."""
    plain, calcified, cut = (true[name] for name in ("plain", "calcified", "resected"))
    for number in np.unique(calcified.anomaly[calcified.anomaly > 0]):
        where = calcified.anomaly == number
        added = float((calcified.hu - plain.hu)[where].mean())
        if where.sum() >= FEWEST_VOXELS and added >= LEAST_HU:
            kept = float((found["calcified"] - found["plain"])[where].mean()) / added
            yield {"thing": "calcification", "mm3": int(where.sum()), "hu": added, "kept": kept}
    changed = cut.structures != plain.structures
    air = changed & (cut.hu < -500)
    fluid = ndimage.binary_erosion(changed & ~air)
    taken = float((plain.hu - cut.hu)[air].mean())
    kept = float((found["plain"] - found["resected"])[air].mean()) / taken
    yield {"thing": "air", "kept": kept}
    yield {"thing": "fluid", "mae": float(np.abs(found["resected"] - cut.hu)[fluid].mean())}
    head = ndimage.binary_closing(plain.hu > -400, iterations=3)
    bone, of_truth = found["plain"] > BOUNDS_HU[1], plain.hu > BOUNDS_HU[1]
    yield {
        "thing": "head",
        "mae": float(np.abs(found["plain"] - plain.hu)[head].mean()),
        "dice": float(2 * (bone & of_truth).sum() / (bone.sum() + of_truth.sum())),
    }


def line(name: str, rows: Sequence[dict[str, object]]) -> str:
    def all_of(thing: str, key: str) -> npt.NDArray[np.float64]:
        return np.array([row[key] for row in rows if row["thing"] == thing], float)

    kept = all_of("calcification", "kept")
    middle, low = np.percentile(kept, (50, 10))
    numbers = (
        f"{middle:.2f} / {low:.2f} (n {len(kept)})", f"{(kept < 0.25).mean():.2f}",
        f"{all_of('air', 'kept').mean():.2f}", f"{all_of('fluid', 'mae').mean():.0f}",
        f"{all_of('head', 'mae').mean():.0f}", f"{all_of('head', 'dice').mean():.3f}",
    )  # fmt: skip
    return f"| {name} | {' | '.join(numbers)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--anatomies", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="every number, to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = {name: Path(folder) for name, folder in (m.split("=", 1) for m in options.models)}
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in models}
    heads = load_anatomies(options.data / "anatomy" / "validation")[: options.anatomies]
    for number, anatomy in enumerate(heads):
        for contrast in CONTRAST_NAMES:
            true = looks(anatomy, contrast, 10 * number + CONTRAST_NAMES.index(contrast))
            for name, folder in models.items():
                found = {k: predicted(look, folder, options.threads) for k, look in true.items()}
                rows[name].extend(measured(found, true))
    if options.json:
        options.json.write_text(json.dumps(rows), encoding="utf-8")
    print(
        "| | calcifications, median / 10th percentile | below a quarter | air of a resection "
        "| MAE in its fluid | MAE | Dice of bone |\n|---|---|---|---|---|---|---|"
    )
    for name, own in rows.items():
        print(line(name, own))


if __name__ == "__main__":
    main()
