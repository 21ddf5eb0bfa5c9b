"""Detections made from a seed, recordings of them, and whether two are the same."""

from __future__ import annotations

import numpy as np

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.reference.recording import Recording

VERSIONS = {"torch": "2.13.0", "mmdet": "2.28.2"}


def detections(count: int, size: tuple[int, int] | None = None, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    masks = probs = None
    if size is not None:
        masks = rng.random((count, *size)) > 0.5
        probs = rng.random((count, 7, 7), dtype=np.float32)
    return Detections(
        rng.random((count, 4), dtype=np.float32),
        rng.random(count, dtype=np.float32),
        rng.integers(0, 3, count),
        masks,
        probs,
    )


def same(one: Detections, other: Detections) -> bool:
    pairs = [
        (getattr(one, name), getattr(other, name))
        for name in ("boxes", "scores", "labels", "mask_probs")
    ]
    masks = [[] if side.masks is None else list(side.masks) for side in (one, other)]
    pairs += zip(*masks, strict=True)
    return all(
        (a is None and b is None)
        or (a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b))
        for a, b in pairs
    )


def recording(*recorded: Detections, raw: int = 1) -> Recording:
    """Of images of 20 x 30 px, run one by one."""
    rng = np.random.default_rng(1)
    outputs = [
        {"cls_1": rng.random((1, 3, 4, 5), np.float32), "bbox_0": rng.random((1, 2), np.float32)}
        for _ in range(min(raw, len(recorded)))
    ]
    return Recording(
        inputs="ab12",
        batch=1,
        images=tuple(f"{number}.png" for number in range(len(recorded))),
        sizes=((20, 30),) * len(recorded),
        detections=recorded,
        raw=tuple(outputs),
        versions=VERSIONS,
        cuts={"nms_pre": 0, "max_per_img": 1},
    )
