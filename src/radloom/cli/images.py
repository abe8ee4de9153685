"""Commands on single images: denoise, register, translate, segment."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from radloom.cli.arguments import Device, Fast, Image, Trust, Written, require_there, threads
from radloom.cli.shell import app, complain, guarded, say
from radloom.errors import ConfigError


class DenoisingMethod(str, Enum):
    """How noise is removed."""

    network = "network"
    dip = "dip"
    nlb = "nlb"
    dct = "dct"
    nlm = "nlm"
    tv = "tv"
    bm4d = "bm4d"


class RegistrationMethod(str, Enum):
    """What estimates the transform."""

    elastix = "elastix"
    voxelmorph = "voxelmorph"
    hybrid = "hybrid"


class TransformKind(str, Enum):
    """What a registration may do to space."""

    rigid = "rigid"
    affine = "affine"
    deformable = "deformable"


@app.command()
@guarded
def denoise(
    image: Image,
    out: Written,
    *,
    method: Annotated[
        DenoisingMethod | None,
        typer.Option(
            help="Trained network, deep image prior, non-local Bayes, shrinkage of cosine "
            "coefficients, non-local means, total variation, or your own install of BM4D. "
            "Default: nlb for MR, nlm for the rest and with --fast."
        ),
    ] = None,
    noise_level: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Standard deviation in the image's units; by default it is estimated."
        ),
    ] = None,
    guide: Annotated[
        Path | None,
        typer.Option(metavar="IMAGE", help="For dip: another image of the patient, same space."),
    ] = None,
    device: Device = "auto",
    fast: Fast = False,
) -> None:
    """Remove noise from one image."""
    require_there(image, *([guide] if guide else []))
    from radloom.pipelines.single import denoise_file

    level = denoise_file(
        image,
        out,
        method=method.value if method else None,
        sigma=noise_level,
        guide=guide,
        fast=fast,
        device=device,
        n_threads=threads(),
    )
    say(f"noise level {level:.4g}; wrote {out}")


class _InOutPairs(TyperCommand):
    """``--label IN OUT`` as two values of one option: typer has no list of pairs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments with ``--label IN OUT`` as ``--label IN --label OUT``."""
        spread: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            spread.append(word)
            if word in ("--label", "--points") and len(rest) > 1:
                spread += [rest.pop(0), word, rest.pop(0)]
        return super().parse_args(ctx, spread)


def _in_and_out(option: str, names: list[Path] | None) -> list[tuple[Path, Path]]:
    names = names or []
    if len(names) % 2:
        raise ConfigError(f"expected {option} IN OUT, got one path")
    return list(zip(names[::2], names[1::2], strict=True))


@app.command(cls=_InOutPairs)
@guarded
def register(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="The image that stays.")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="The image that moves.")],
    out: Written,
    *,
    method: Annotated[
        RegistrationMethod | None,
        typer.Option(
            help="Default: hybrid with --transform deformable, else elastix. voxelmorph is the "
            "trained network alone."
        ),
    ] = None,
    transform: Annotated[
        TransformKind, typer.Option(help="rigid, affine or deformable.")
    ] = TransformKind.rigid,
    label: Annotated[
        list[Path] | None,
        typer.Option(metavar="IN OUT", help="A label image of MOVING to carry over; repeatable."),
    ] = None,
    points: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IN OUT",
            help="A list of points of MOVING to carry over: .csv, .tsv, .fcsv, .mrk.json; "
            "repeatable.",
        ),
    ] = None,
    fixed_mask: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Above zero where FIXED is looked at.")
    ] = None,
    moving_mask: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Above zero where MOVING counts.")
    ] = None,
    save_transform: Annotated[
        Path | None, typer.Option(metavar="FILE", help=".tfm or .nii.gz, as ITK reads it.")
    ] = None,
    parameters: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="An elastix parameter file; repeatable, in order."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Bring one image onto another."""
    labels, lists = _in_and_out("--label", label), _in_and_out("--points", points)
    masks = [mask for mask in (fixed_mask, moving_mask) if mask]
    carried = [*labels, *lists]
    require_there(fixed, moving, *(source for source, _ in carried), *masks, *(parameters or []))
    from radloom.pipelines.single import register_files

    saved, checks = register_files(
        fixed,
        moving,
        out,
        transform=transform.value,
        method=method.value if method else None,
        parameter_files=parameters or [],
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        labels=labels,
        points=lists,
        save_transform=save_transform,
        device=device,
        n_threads=threads(),
    )
    for path in (out, *(written for _, written in carried), *([saved] if saved else [])):
        say(f"wrote {path}")
    for check in checks:
        if check.flagged:
            complain(f"look: {check.name} is {check.value:.4g}. {check.meaning}")


@app.command()
@guarded
def translate(
    image: Annotated[Path, typer.Argument(metavar="MR", help="An MR image of the head.")],
    out: Written,
    *,
    attenuation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Linear attenuation at 511 keV, cm-1, for PET."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="0 air, 1 soft tissue, 2 bone.")
    ] = None,
    uncertainty: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The absolute error to expect, HU.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A MONAI bundle of your own.")
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(help="t1, t2, flair, pd or t1ce, for a model that takes several."),
    ] = None,
    device: Device = "auto",
    fast: Fast = False,
    trust: Trust = False,
) -> None:
    """Make a pseudo-CT, in HU, of an MR image."""
    del fast  # the network works on half the grid as it is
    require_there(image, *([model] if model else []))
    from radloom.pipelines.single import translate_file

    flagged = translate_file(
        image,
        out,
        attenuation=attenuation,
        classes=classes,
        uncertainty=uncertainty,
        model=model,
        role=contrast,
        trust=trust,
        device=device,
        n_threads=threads(),
    )
    for check in flagged:
        say(f"look before you use it: {check.name} {check.value:.4g} {check.unit}. {check.meaning}")
    for path in (out, attenuation, classes, uncertainty):
        if path is not None:
            say(f"wrote {path}")


@app.command()
@guarded
def segment(
    image: Image,
    out: Written,
    *,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="An nnU-Net v2 model folder or a MONAI bundle; by default Radloom's own of the "
            "head.",
        ),
    ] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A new Zarr folder for the probabilities of all classes; nnU-Net models only.",
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Let PyTorch compile the network first: worth it for many windows; needs a C++ "
            "compiler on the CPU.",
        ),
    ] = False,
    tensorrt: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Compute by TensorRT on a CUDA device, in half precision; keeps the engines that "
            "it builds of each model in FOLDER.",
        ),
    ] = None,
    device: Device = "auto",
    fast: Fast = False,
    trust: Trust = False,
) -> None:
    """Label the structures in one image, on its own grid."""
    require_there(image, *([model] if model else []))
    from radloom.pipelines.single import segment_file

    table, flagged = segment_file(
        image,
        out,
        model=model,
        trust=trust,
        fast=fast,
        device=device,
        n_threads=threads(),
        probabilities=probabilities,
        compiled=compiled,
        engines=tensorrt,
    )
    for path in (out, table, probabilities):
        if path is not None:
            say(f"wrote {path}")
    for check in flagged:
        value = f"{check.value:.4g} {check.unit}".rstrip()
        complain(f"look: {check.name} is {value}. {check.meaning}")
