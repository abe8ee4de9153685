"""One image through one method, from file to file: what the commands for single images do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from radloom.errors import ConfigError
from radloom.geometry import flip_lps_ras, parts_from_affine
from radloom.pipelines.engine.cluster import choose_device
from radloom.pipelines.receipts.files import write_file
from radloom.shapes import Volume, affine_of, array_of, make_label, spatial_shape

if TYPE_CHECKING:
    from radloom.models.denoising.methods import Method
    from radloom.models.segmentation import TakeProbabilities
    from radloom.pipelines.stage import Check
    from radloom.shapes import LabelVolume

__all__ = [
    "ENDINGS",
    "deface_file",
    "denoise_file",
    "register_files",
    "segment_file",
    "translate_file",
    "write_image",
]

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
"""The formats that `write_image` knows, chosen by the ending of the name."""

TransformKind: TypeAlias = Literal["rigid", "affine", "deformable"]
RegistrationMethod: TypeAlias = Literal["elastix", "voxelmorph", "hybrid"]


def deface_file(image: Path, out: Path, *, brain: Path | None, n_threads: int) -> float:
    """Writes `image` without its face to `out`; the share of its voxels that was removed."""
    from radloom.pipelines.deface import deface
    from radloom.pipelines.ingest import read_image

    require_writable(out)
    labels = None
    if brain is not None:
        given = read_image(brain)
        labels = make_label(array_of(given), affine_of(given))
    done = deface(read_image(image), labels, n_threads=n_threads)
    write_image(done.volume, out)
    return float(done.removed.mean())


def denoise_file(
    image: Path,
    out: Path,
    *,
    method: Method | None = None,
    sigma: float | None = None,
    guide: Path | None = None,
    fast: bool,
    device: str = "cpu",
    n_threads: int,
) -> float:
    """Writes `image` without its noise to `out`; the noise level in the image's units.

    `guide` is another image of the patient in the same space, for the deep image prior; it is
    resampled to the grid of `image`.
    """
    from radloom.models.denoising.methods import How
    from radloom.pipelines.denoise import denoise
    from radloom.pipelines.ingest import read_image
    from radloom.threads import torch_settings
    from radloom.transforms.spatial import resample

    require_writable(out)
    given = read_image(image)
    other = None
    if guide is not None:
        resampled = resample(read_image(guide), None, affine_of(given), spatial_shape(given))
        other = array_of(resampled)[0]
    how = How(
        method,
        sigma=sigma,
        fast=fast,
        n_threads=n_threads,
        device=torch.device(choose_device(device)),
        guide=other,
    )
    with torch_settings(n_threads):
        volume, level = denoise(given, how)
    write_image(volume, out)
    return level


def register_files(
    fixed: Path,
    moving: Path,
    out: Path,
    *,
    transform: TransformKind,
    method: RegistrationMethod | None = None,
    parameter_files: Sequence[Path] = (),
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    labels: Sequence[tuple[Path, Path]] = (),
    points: Sequence[tuple[Path, Path]] = (),
    save_transform: Path | None = None,
    device: str = "cpu",
    n_threads: int,
) -> tuple[Path | None, tuple[Check, ...]]:
    """Writes `moving` on the grid of `fixed` to `out`, labels and points likewise, the transform.

    Each of `labels` is a label image in the space of `moving`, and where to write it on the grid
    of `fixed`; each of `points` a file of points in the space of `moving`, and where to write them
    in that of `fixed`. The masks are images, above zero where to look.

    Returns:
        Where the transform lies, if it was asked for, and the checks of the registration.
    """
    from radloom.pipelines.ingest import read_image
    from radloom.pipelines.register import register_images
    from radloom.transforms.itk_files import write_transform
    from radloom.transforms.points import point_suffix, read_points
    from radloom.transforms.spatial import resample

    for path in (out, *(written for _, written in labels)):
        require_writable(path)
    for source, written in points:
        _require_same_suffix(point_suffix(source), written)
    fixed_volume, moving_volume = read_image(fixed), read_image(moving)
    given = [(read_image(source), written) for source, written in labels]
    lists = [(read_points(source), written) for source, written in points]
    found = register_images(
        fixed_volume,
        moving_volume,
        transform=transform,
        method=method,
        parameter_files=tuple(parameter_files),
        fixed_mask=_read_mask(fixed_mask),
        moving_mask=_read_mask(moving_mask),
        device=torch.device(choose_device(device)),
        n_threads=n_threads,
    )
    write_image(found.warped_moving, out)
    affine, shape = affine_of(fixed_volume), spatial_shape(fixed_volume)
    for label, written in given:
        moved = resample(
            label, found.moving_from_fixed, affine, shape, interpolation="nearest", default=0.0
        )
        write_image(make_label(array_of(moved), affine), written)
    for listed, written in lists:
        home = found.moving_from_fixed.apply_inverse(listed.points)
        write_file(written, listed.rewritten(home).encode("utf-8"))
    saved = write_transform(found.moving_from_fixed, save_transform) if save_transform else None
    return saved, found.checks


def _read_mask(path: Path | None) -> LabelVolume | None:
    from radloom.pipelines.ingest import read_image

    if path is None:
        return None
    image = read_image(path)
    return make_label((array_of(image)[:1] > 0).astype("uint8"), affine_of(image))


def _require_same_suffix(suffix: str, written: Path) -> None:
    """Nothing, if points can be written there as they were read."""
    if not written.name.lower().endswith(suffix):
        raise ConfigError(f"expected OUT to end in {suffix} as IN does, got <{written.name}>")
    if not written.resolve().parent.is_dir():
        raise ConfigError(f"expected a folder to write to, got <{written.parent}>: make it first")


def translate_file(
    mr: Path,
    out: Path,
    *,
    attenuation: Path | None = None,
    classes: Path | None = None,
    uncertainty: Path | None = None,
    model: Path | None = None,
    role: str | None = None,
    trust: bool = False,
    device: str,
    n_threads: int,
) -> list[Check]:
    """Writes the pseudo-CT of `mr`, in HU on its own grid, to `out`; the checks out of range.

    `attenuation`, `classes` and `uncertainty` are where the attenuation map at 511 keV, the tissue
    classes and the expected error go; `role` is the contrast of `mr`, for a network of several.
    """
    from radloom.models.bundles import find_bundle, weights_path
    from radloom.pipelines.ingest import read_image
    from radloom.pipelines.translate import DEFAULT_BUNDLE, checks_of_input, translate

    asked = {path for path in (out, attenuation, classes, uncertainty) if path is not None}
    for path in asked:
        require_writable(path)
    chosen = torch.device(choose_device(device))
    weights_path(model or find_bundle(DEFAULT_BUNDLE))  # before the image is read for nothing
    volume = read_image(mr)
    given = volume if role is None else {role: volume}
    found = translate(given, model, device=chosen, n_threads=n_threads, trust=trust)
    if uncertainty is not None and found.uncertainty is None:
        raise ConfigError("expected a model that says its expected error for --uncertainty")
    write_image(found.hu, out)
    if attenuation is not None:
        write_image(found.attenuation(), attenuation)
    if classes is not None:
        write_image(found.classes, classes)
    if uncertainty is not None and found.uncertainty is not None:
        write_image(found.uncertainty, uncertainty)
    return [check for check in checks_of_input(volume) if check.flagged]


def segment_file(
    image: Path,
    out: Path,
    *,
    model: Path | None,
    trust: bool,
    fast: bool,
    device: str,
    n_threads: int,
    probabilities: Path | None = None,
    compiled: bool = False,
    engines: Path | None = None,
) -> tuple[Path, list[Check]]:
    """Writes the labels of `image`, on its own grid, to `out`.

    Args:
        image: to label.
        out: of the labels.
        model: a folder; None: Radloom's own.
        trust: whether the user trusts code in it.
        fast: windows that overlap less, no mirroring.
        device: auto, cpu, cuda, ...
        n_threads: of the CPU.
        probabilities: folder in Zarr's format that takes those of all classes, float16.
        compiled: whether PyTorch compiles the network first.
        engines: folder that keeps TensorRT's engines, by which a CUDA device computes.

    Returns:
        where the volumes stand in mL; the checks that ask somebody to look.
    """
    from radloom.models.segmentation.nnunet import NnunetOptions
    from radloom.models.segmentation.tensorrt import require_tensorrt
    from radloom.pipelines.export.tsv import to_tsv
    from radloom.pipelines.ingest import read_image
    from radloom.pipelines.segment import checks_of, predict, volumes_table

    require_writable(out)
    chosen = choose_device(device)
    if engines is not None:
        require_tensorrt(engines, chosen)
    volume = read_image(image)
    with _probabilities_in(probabilities, model, volume) as take:
        found, names = predict(
            volume,
            model,
            options=NnunetOptions(compiled=compiled, engines=engines),
            device=torch.device(chosen),
            n_threads=n_threads,
            trust=trust,
            fast=fast,
            probabilities=take,
        )
    write_image(found.label, out)
    table = out.with_name(out.name.removesuffix(".gz").rsplit(".", 1)[0] + ".tsv")
    rows = volumes_table(found.label, names, found.doubt)
    write_file(table, to_tsv(rows))
    checks = checks_of("image", found, rows, names, own=model is None)
    return table, [check for check in checks if check.flagged]


@contextmanager
def _probabilities_in(
    path: Path | None, model: Path | None, volume: Volume
) -> Iterator[TakeProbabilities | None]:
    """What takes probabilities into a folder, which lies at `path` once all are there."""
    if path is None:
        yield None
        return
    from radloom.pipelines.export.zarr import ZarrFolder
    from radloom.pipelines.segment import class_names

    if path.exists() or not path.resolve().parent.is_dir():
        raise ConfigError(f"expected a new folder for probabilities, got <{path.name}>")
    names = class_names(model)
    with tempfile.TemporaryDirectory(dir=path.resolve().parent) as folder:
        store = ZarrFolder(
            Path(folder) / path.name,
            (len(names), *spatial_shape(volume)),
            background=names[0] == "background",
            attributes={"classes": list(names), "affine_ras_mm": affine_of(volume).tolist()},
        )
        yield store.write
        store.close()
        store.path.rename(path)


def require_writable(path: Path) -> None:
    """Nothing, if an image can be written to `path`.

    Raises:
        ConfigError: an ending that no writer knows, or no such folder.
    """
    if not path.name.endswith(ENDINGS):
        raise ConfigError(f"expected OUT to end in {', '.join(ENDINGS)}, got <{path.name}>")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"expected a folder to write to, got <{path.parent}>: make it first")


def write_image(volume: Volume, path: Path) -> None:
    """The volume or label as a file of the format that the name's ending says.

    Raises:
        ConfigError: an ending that no writer knows, or no such folder.
    """
    from radloom.transforms.nifti import write_nifti

    require_writable(path)
    if path.name.endswith((".nii", ".nii.gz")):
        write_nifti(volume, path)
    else:
        _write_itk(volume, path)


def _write_itk(volume: Volume, path: Path) -> None:
    import SimpleITK as sitk

    origin, spacing, direction = parts_from_affine(flip_lps_ras(affine_of(volume)))
    values = array_of(volume)
    if values.shape[0] != 1:
        raise ConfigError(f"expected one channel for <{path.name}>, got {values.shape[0]}")
    image = sitk.GetImageFromArray(values[0].T)
    image.SetOrigin(origin.tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)
