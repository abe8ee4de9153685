"""What a stage cost, and on what: seconds, peak memory, versions."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # ingestion alone runs without torch
    import torch

__all__ = ["PACKAGES", "Cost", "machine", "measured", "versions"]

PACKAGES = (
    "radloom",
    "monai",
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "SimpleITK",
    "itk-elastix",
    "nnunetv2",
    "highdicom",
    "pydicom",
    "dcm2niix",
)
"""What results depend on, by the names of the package index."""

SAMPLE_S = 0.05
"""Seconds between two looks at the resident set: shorter than any stage that needs much memory."""


@dataclass
class Cost:
    """Filled in while a `measured` block runs."""

    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_device_bytes: int = 0


@contextmanager
def measured(device: torch.device, cost: Cost) -> Iterator[None]:
    """`cost` filled in when the block ends, however it ends.

    The high-water mark of the operating system never falls, so a thread samples the resident set;
    peaks that live shorter than `SAMPLE_S` may be missed.
    """
    stop = threading.Event()
    sampler = threading.Thread(target=_sample, args=(cost, stop), daemon=True)
    on_gpu = device.type == "cuda"
    if on_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    sampler.start()
    try:
        yield
    finally:
        cost.seconds = time.perf_counter() - start
        stop.set()
        sampler.join()
        if on_gpu:
            cost.peak_device_bytes = int(torch.cuda.max_memory_allocated(device))


def _sample(cost: Cost, stop: threading.Event) -> None:
    import psutil

    process = psutil.Process()
    while True:
        cost.peak_memory_bytes = max(cost.peak_memory_bytes, int(process.memory_info().rss))
        if stop.wait(SAMPLE_S):
            break
    cost.peak_memory_bytes = max(cost.peak_memory_bytes, int(process.memory_info().rss))


@cache
def versions() -> Mapping[str, str]:
    """Package -> version, for those installed; nothing is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def machine(device: torch.device | None = None) -> Mapping[str, str | int]:
    """System, processor, cores, memory, and the GPU that `device` is; not the machine's name."""
    if device is None or device.type != "cuda":
        return _host()
    import torch

    return {**_host(), "gpu": torch.cuda.get_device_name(device)}


@cache
def _host() -> Mapping[str, str | int]:
    import psutil

    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": int(psutil.virtual_memory().total),
    }


def _processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
