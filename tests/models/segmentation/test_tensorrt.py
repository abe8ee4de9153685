"""TensorRT where it is installed: what is refused, and that its buffers are left alone.

Neither it nor a GPU is here: MONAI's `trt_compile` is replaced by what it does to a network, one
buffer of results for all windows.
"""

import pytest
import torch

from radloom.errors import ConfigError, StageFailed
from radloom.models.segmentation import tensorrt
from radloom.models.segmentation.tensorrt import by_tensorrt, require_tensorrt
from radloom.models.segmentation.windows import mirrored


def test_scores_are_those_of_the_network_though_the_engine_has_one_buffer(
    monkeypatch, tmp_path
) -> None:
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    buffer, asked = torch.empty(1, 3, 6, 6, 6), []

    def compile_(module, path):
        asked.append(path)
        return lambda windows: buffer.copy_(module(windows))

    monkeypatch.setattr("monai.networks.trt_compile", compile_)
    window = torch.randn(1, 1, 6, 6, 6)
    with torch.inference_mode():
        wanted = mirrored(network, (0, 2))(window)
        found = mirrored(by_tensorrt(network, tmp_path / "one-0"), (0, 2))(window)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert asked == [str(tmp_path / "one-0")]


def test_a_network_that_it_cannot_run_is_said_to_be_one(monkeypatch, tmp_path) -> None:
    def compile_(module, path):
        def fails(windows):
            raise RuntimeError("no kernel for InstanceNormalization")

        return fails

    monkeypatch.setattr("monai.networks.trt_compile", compile_)
    predict = by_tensorrt(torch.nn.Identity(), tmp_path / "one-0")
    with pytest.raises(StageFailed, match=r"TensorRT cannot run .* RuntimeError: no kernel .*out$"):
        predict(torch.zeros(1, 1, 4, 4, 4))


def test_what_it_needs_is_asked_for_first(monkeypatch, tmp_path) -> None:
    with pytest.raises(ConfigError, match="expected a CUDA device for TensorRT, got cpu"):
        require_tensorrt(tmp_path, "cpu")
    with pytest.raises(ConfigError, match=r"engines, got <absent>"):
        require_tensorrt(tmp_path / "absent", "cuda")
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None if name == "polygraphy" else name)
    with pytest.raises(ConfigError, match=r"got no polygraphy; install with pip install polygr"):
        require_tensorrt(tmp_path, "cuda:0")
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: name)
    require_tensorrt(tmp_path, "cuda:0")
