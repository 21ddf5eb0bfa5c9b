"""Asks NVIDIA's driver for the first GPU that CUDA would use; also a program that prints it.

``cuInit`` starts CUDA in the process that calls it, and a process that is forked from such a one
cannot use CUDA. So a process that may fork later asks another one: this file, which needs nothing
but the standard library.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

NAMES = ("libcuda.so.1", "nvcuda.dll")
# Attributes of the driver's cuDeviceGetAttribute.
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76


def load() -> Any:
    """The driver's library, None where there is none. Loading it starts nothing."""
    for name in NAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def ask() -> list[Any] | str:
    """``[name, major, minor]`` of the first GPU, or why there is none. Starts CUDA."""
    driver = load()
    if driver is None:
        return "no GPU: NVIDIA's driver is not installed"
    status = driver.cuInit(0)
    if status:
        return f"no GPU: the driver does not start (cuInit gives error {status})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "no GPU: the driver sees none; check CUDA_VISIBLE_DEVICES"
    name, capability = ctypes.create_string_buffer(256), []
    driver.cuDeviceGetName(name, len(name), 0)
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
        capability.append(value.value)
    return [name.value.decode(), *capability]


if __name__ == "__main__":
    print(json.dumps(ask()))
