"""How the workers of a run share the machine's cores."""

from __future__ import annotations

import os


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


def share_cores(threads: int | None) -> None:
    """Keeps PyTorch and OpenCV within so many threads; None: no limit."""
    if threads is None:
        return
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
