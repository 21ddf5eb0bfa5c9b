"""What a run was made with: versions and hardware, never who ran it or where."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_onnxdet.core import nvml
from pytest_onnxdet.core.cpu import cores

#: Distributions whose version can change a result. One that is not installed is left out.
DISTRIBUTIONS = (
    "pytest-onnxdet",
    "pytest",
    "torch",
    "torchvision",
    "mmcv-full",
    "mmdet",
    "onnx",
    "onnxscript",
    "onnxslim",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "pycuda",
    "numpy",
    "pycocotools",
    "hotcoco",
)

#: Of these the ones that run a detector.
RUNNING = (
    "torch",
    *(name for name in DISTRIBUTIONS if name.startswith(("onnxruntime", "tensorrt"))),
)

DRIVER = Path("/proc/driver/nvidia/version")


def environment() -> dict[str, Any]:
    """The versions and the machine, as report.json holds them.

    Nothing heavy is imported: versions are read from the installed metadata, and GPUs are asked
    from torch only where it is loaded already, else from NVML (nvidia-ml-py) or Linux.

    Returns:
        ``versions`` (name to version; ``nvidia-driver`` where one is loaded), ``platform``
        (system, release, architecture), ``cpu`` (``model``, ``count`` of usable cores) and
        ``devices`` (the names of the GPUs; empty without one).
    """
    return {
        "versions": _versions(),
        "platform": _platform(),
        "cpu": {"model": _cpu_model(), "count": cores()},
        "devices": _gpus(),
    }


def describe(environment: Mapping[str, Any], brief: bool = False) -> str:
    """One line of an :func:`environment`, for people. Other keys and missing ones are fine.

    Args:
        environment: what ran where.
        brief: only what runs detectors, and on what.
    """
    parts = []
    versions = environment.get("versions")
    if isinstance(versions, Mapping):
        shown = [name for name in versions if not brief or name in RUNNING]
        parts += [f"{name} {versions[name]}" for name in shown]
    if environment.get("platform") and not brief:
        parts.append(str(environment["platform"]))
    cpu = environment.get("cpu")
    if isinstance(cpu, Mapping):
        parts.append(f"{cpu.get('count', '?')} x {cpu.get('model', 'unknown CPU')}")
    devices = environment.get("devices")
    if devices is not None:
        parts.append(", ".join(map(str, devices)) if devices else "no GPU")
    return "; ".join(parts)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    driver = _driver()
    return versions if driver is None else {**versions, "nvidia-driver": driver}


def _driver() -> str | None:
    """The version of NVIDIA's driver."""
    version = nvml.ask(lambda pynvml: nvml.text(pynvml.nvmlSystemGetDriverVersion()))
    if version is not None:
        return version
    try:
        text = DRIVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return match.group(1) if match else None


def _names(pynvml: Any) -> list[str]:
    """The names of all GPUs, in the order of their places on the bus."""
    devices = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return [nvml.text(pynvml.nvmlDeviceGetName(device)) for device in devices]


def _platform() -> str:
    # Not platform.platform(): a kernel's release may carry a company's or a machine's name.
    release = re.match(r"\d+(\.\d+)*", platform.release())
    parts = [platform.system(), release.group() if release else "", platform.machine()]
    libc = " ".join(platform.libc_ver()).strip() if sys.platform == "linux" else ""
    return " ".join(p for p in [*parts, libc] if p)


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or "unknown CPU"


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    try:
        if cuda is not None and cuda.is_available():
            return [cuda.get_device_name(i) for i in range(cuda.device_count())]
    except RuntimeError:  # a driver that does not fit: the backend says so, the report goes on
        pass
    names = nvml.ask(_names)
    if names is not None:
        return names
    models = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
        models.append(model.group(1).strip() if model else "NVIDIA GPU")
    return models
