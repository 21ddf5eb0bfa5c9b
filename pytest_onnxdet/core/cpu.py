"""What a run's processes may use of the processor: cores, and when to collect garbage."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def fair_share() -> int | None:
    """Threads for this process: under pytest-xdist its part of the cores, else None, no limit."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if not workers:
        return None
    return max(1, cores() // workers)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Switches the collector off for the duration of the block, and on again if it was on.

    What holds no reference to itself is freed as ever.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
