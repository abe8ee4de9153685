"""Networks as engines of NVIDIA's TensorRT, by MONAI's `trt_compile`, where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from radloom.errors import ConfigError, StageFailed
from radloom.models.segmentation.windows import Predict

__all__ = ["by_tensorrt", "require_tensorrt"]

NEEDED = ("tensorrt", "polygraphy", "onnx")
"""Packages; none of them comes with Radloom."""


def require_tensorrt(engines: Path, device: str) -> None:
    """Raises unless engines can be built for `device` and kept in `engines`.

    Raises:
        ConfigError: no CUDA device, no such folder, or packages that are not installed.
    """
    if not device.startswith("cuda"):
        raise ConfigError(f"expected a CUDA device for TensorRT, got {device}; leave it out")
    if not engines.is_dir():
        raise ConfigError(f"expected a folder that keeps TensorRT's engines, got <{engines.name}>")
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"expected {', '.join(NEEDED)} installed for TensorRT, got no {', '.join(absent)}; "
            f"install with pip install {' '.join(absent)}"
        )


def by_tensorrt(network: torch.nn.Module, engine: Path) -> Predict:
    """The network in half precision, from the file `engine`.plan; the first window builds that.

    An engine takes windows of one shape. What it gives is a copy, for TensorRT writes the next
    window's scores where these lie.
    """
    from monai.networks import trt_compile

    wrapped = trt_compile(network, str(engine))

    def predict(windows: torch.Tensor) -> torch.Tensor:
        try:
            scores: torch.Tensor = wrapped(windows)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of its own kinds, and of ONNX's and polygraphy's
            raise StageFailed(
                f"TensorRT cannot run this network: {type(error).__name__}: "
                f"{str(error)[:200]}; leave TensorRT out"
            ) from error
        return scores.clone()

    return predict
