"""How many threads PyTorch and OpenCV work with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


def share_cores(threads: int | None) -> None:
    """Keeps PyTorch and OpenCV within so many threads; None: no limit."""
    if threads is None:
        return
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch and OpenCV with so many threads, as long as the block lasts."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    share_cores(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
