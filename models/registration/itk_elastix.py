"""elastix itself: volumes and parameter maps in, its transform as a `Transform` out.

The compiled classes are imported one by one from the modules that hold them: ``itk.<Name>`` loads
every wrapped filter of ITK before the first call, 14 s of CPU where these few need 4 s.

elastix sums its metric per work unit, so its last bits follow the number of work units, and they
grow into another path of the search. Here that number is always `N_WORK_UNITS`, however many cores
there are; then results are the same, bit by bit, on one core and on many.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from radloom.errors import ConfigError, StageFailed
from radloom.geometry import (
    Affine,
    flip_lps_ras,
    flip_transform_lps_ras,
    parts_from_affine,
)
from radloom.shapes import LabelVolume, Volume, affine_of, array_of
from radloom.transforms.spatial import Transform

__all__ = [
    "N_WORK_UNITS",
    "ParameterMap",
    "displacement_transform",
    "linear_transform",
    "parse_parameters",
    "run_elastix",
]

N_WORK_UNITS = 4
"""Into how many parts elastix cuts its sums, on any machine."""

ParameterMap: TypeAlias = Mapping[str, tuple[str, ...]]
"""An elastix parameter map: key -> values, all as text."""

LINEAR = (
    "TranslationTransform",
    "EulerTransform",
    "SimilarityTransform",
    "AffineTransform",
)
"""The transforms that a matrix says exactly."""


def parse_parameters(text: str, where: str) -> ParameterMap:
    """The parameter map in an elastix parameter file's text.

    >>> parse_parameters('(Metric "NormalizedMutualInformation") // so be it', "a.txt")
    {'Metric': ('NormalizedMutualInformation',)}

    Raises:
        ConfigError: a line is not ``(Key value ...)``, a key is there twice, or none is.
    """
    result: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.split("//")[0].strip()
        if not line:
            continue
        words = _words(line)
        if not words or words[0] in result:
            raise ConfigError(
                f"<{where}> line {number}: expected one (Key value ...) a line and each key once, "
                f"got {line[:60]!r}"
            )
        result[words[0]] = tuple(words[1:])
    if not result:
        raise ConfigError(f"<{where}>: expected an elastix parameter file, got no parameter")
    return result


def _words(line: str) -> list[str]:
    """Key and values of one line; empty where it is not well formed."""
    if not (line.startswith("(") and line.endswith(")")):
        return []
    found = re.findall(r'"([^"]*)"|([^\s"]+)', line[1:-1])
    words = [quoted or bare for quoted, bare in found]
    return words if len(words) > 1 else []


def run_elastix(
    fixed: Volume,
    moving: Volume,
    maps: Sequence[ParameterMap],
    *,
    fixed_mask: LabelVolume | None = None,
    moving_mask: LabelVolume | None = None,
) -> tuple[ParameterMap, ...]:
    """Elastix's transform parameters, one map a stage, each applied after those before it.

    Args:
        fixed: (1, I, J, K) on a grid of right angles.
        moving: the same.
        maps: what to do, in order.
        fixed_mask: on the grid of `fixed`, above zero where samples may be drawn.
        moving_mask: on the grid of `moving`.

    Raises:
        StageFailed: elastix gave up; the message holds what its log says last.
    """
    method = _itk_class("itkElastixRegistrationMethodIF3IF3", "itkElastixRegistrationMethod").New()
    method.SetFixedImage(_image(fixed))
    method.SetMovingImage(_image(moving))
    if fixed_mask is not None:
        method.SetFixedMask(_image(fixed_mask))
    if moving_mask is not None:
        method.SetMovingMask(_image(moving_mask))
    method.SetParameterObject(_parameter_object(maps))
    method.SetNumberOfThreads(N_WORK_UNITS)
    method.LogToConsoleOff()
    with tempfile.TemporaryDirectory(prefix="radloom-") as folder:
        method.SetOutputDirectory(folder)
        method.SetLogFileName("elastix.log")
        method.LogToFileOn()
        try:
            method.UpdateLargestPossibleRegion()
        except RuntimeError as error:
            raise StageFailed(f"elastix gave up: {_last_words(Path(folder))}") from error
    result = method.GetTransformParameterObject()
    return tuple(dict(result.GetParameterMap(n)) for n in range(len(maps)))


def linear_transform(maps: Sequence[ParameterMap]) -> Transform | None:
    """The matrix that linear stages make together; None where one is not linear.

    The centre of rotation is folded in, so that the result is exact everywhere.
    """
    matrix_lps = np.eye(4)
    for stage in maps:
        if stage["Transform"][0] not in LINEAR or stage["HowToCombineTransforms"][0] != "Compose":
            return None
        matrix_lps = _stage_matrix_lps(stage) @ matrix_lps
    return Transform(flip_transform_lps_ras(matrix_lps))


def displacement_transform(
    maps: Sequence[ParameterMap], grid_affine: Affine, grid_shape: tuple[int, int, int]
) -> Transform:
    """The stages together as one displacement at the voxel centres of a grid of right angles."""
    grid = _grid_parameters(grid_affine, grid_shape)
    method = _itk_class("itkTransformixFilterIF3", "itkTransformixFilter").New()
    method.SetMovingImage(_image_of(np.zeros((2, 2, 2), np.float32), np.eye(4)))
    method.SetTransformParameterObject(_parameter_object([{**stage, **grid} for stage in maps]))
    method.ComputeDeformationFieldOn()
    method.LogToConsoleOff()
    method.LogToFileOff()
    with tempfile.TemporaryDirectory(prefix="radloom-") as folder:
        method.SetOutputDirectory(folder)  # it writes the field there too, whatever it is told
        method.UpdateLargestPossibleRegion()
    buffer = _itk_class("itkPyBufferIVF33", "itkPyBuffer")
    field_lps = buffer.GetArrayFromImage(method.GetOutputDeformationField())
    field = np.moveaxis(field_lps, -1, 0).transpose(0, 3, 2, 1)
    signs = np.array([-1, -1, 1], np.float32)[:, None, None, None]
    return Transform(np.eye(4), np.asarray(field * signs, dtype=np.float32), grid_affine)


def _stage_matrix_lps(stage: ParameterMap) -> Affine:
    import SimpleITK as sitk

    name = stage["Transform"][0]
    values = [float(word) for word in stage["TransformParameters"]]
    matrix = np.eye(4)
    if name == "TranslationTransform":
        matrix[:3, 3] = values
        return matrix
    kinds = {
        "EulerTransform": sitk.Euler3DTransform,
        "SimilarityTransform": sitk.Similarity3DTransform,
        "AffineTransform": lambda: sitk.AffineTransform(3),
    }
    transform = kinds[name]()
    centre = np.array([float(word) for word in stage["CenterOfRotationPoint"]])
    transform.SetCenter(centre.tolist())
    if name == "EulerTransform":
        transform.SetComputeZYX(stage.get("ComputeZYX", ("false",))[0] == "true")
    transform.SetParameters(values)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    moved = (matrix[:3, :3] * centre).sum(axis=1)
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - moved
    return matrix


def _parameter_object(maps: Sequence[ParameterMap]) -> Any:
    result = _itk_class("elastixParameterObject", "elxParameterObject").New()
    for stage in maps:
        result.AddParameterMap(dict(stage))
    return result


def _grid_parameters(grid_affine: Affine, grid_shape: tuple[int, int, int]) -> ParameterMap:
    origin, spacing, direction = parts_from_affine(flip_lps_ras(grid_affine))
    return {
        "Size": tuple(str(n) for n in grid_shape),
        "Index": ("0", "0", "0"),
        "Spacing": tuple(repr(float(x)) for x in spacing),
        "Origin": tuple(repr(float(x)) for x in origin),
        "Direction": tuple(repr(float(x)) for x in direction.T.ravel()),
    }


def _image(volume: Volume) -> Any:
    return _image_of(array_of(volume)[0], affine_of(volume))


def _image_of(array: npt.NDArray[Any], affine: Affine) -> Any:
    """An ITK image of an (I, J, K) array; it holds a copy."""
    kind = "itkPyBufferIF3" if array.dtype == np.float32 else "itkPyBufferIUC3"
    image = _itk_class(kind, "itkPyBuffer").GetImageFromArray(
        np.ascontiguousarray(array.transpose(2, 1, 0))
    )
    origin, spacing, direction = parts_from_affine(flip_lps_ras(affine))
    image.SetOrigin(origin.tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection(np.ascontiguousarray(direction))
    return image


def _itk_class(name: str, module: str) -> Any:
    """A compiled class of ITK.

    Its modules warn of their own SWIG types while they load (DeprecationWarning), and where
    warnings are errors that ends in a segmentation fault: so nothing warns here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(import_module(f"itk.{module}Python"), name)


def _last_words(folder: Path) -> str:
    """What elastix's log says went wrong, without addresses in memory."""
    log = folder / "elastix.log"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    reasons = [line for line in lines if line.startswith("Description:")]
    reasons = reasons or [line for line in lines if line.lower().startswith("error")]
    words = reasons[-1] if reasons else "its log says nothing"
    words = re.sub(r"(Description: |ITK ERROR: |\w+\(0x[0-9a-f]+\): )", "", words)
    return words.replace(str(folder), "")[:300]
