"""What fp16 does to each mini's detections: how far each is off, and all of them together.

Usage: python tools/half_noise.py [--models NAME,...] [--images N]

No GPU is needed to see it: weights, and what every layer gives, are rounded to fp16 in PyTorch,
sums are taken in float32, as tensor cores take them, and decoded boxes are rounded to fp16 too. A
table row has, of the detections that both have, the worst box coordinate (pixels), score and mask
probability, and the mean of all signed differences: roundings go either way and cancel, a fault
that moves every box does not. :data:`pytest_onnxdet.models.spec.HALF` allows for both.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pytest_onnxdet.data.batches import Batches
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.build import load_config
from pytest_onnxdet.models.mini import mini_specs
from pytest_onnxdet.models.spec import HALF, ModelSpec
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.run.detectors import make_detector
from pytest_onnxdet.verify.bias import differences


def rounded(value: Any) -> Any:
    """Tensors of float32 to the nearest of fp16, those within lists and tuples, too."""
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.half().float()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(rounded(one) for one in value)
    return value


@contextlib.contextmanager
def in_half(detector: nn.Module) -> Iterator[nn.Module]:
    """A copy of a detector whose parameters and whose layers' outputs are rounded to fp16."""
    half = copy.deepcopy(detector)
    with torch.no_grad():
        for tensor in (*half.parameters(), *half.buffers()):
            if tensor.dtype == torch.float32:
                tensor.copy_(tensor.half().float())
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: rounded(output))
        for module in half.modules()
        if not any(True for _ in module.children())
    ]
    try:
        yield half
    finally:
        for handle in handles:
            handle.remove()


def row(spec: ModelSpec, images: int) -> list[str]:
    """A mini's cells, of so many images."""
    dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
    detector = make_detector(spec, Path(), None, lambda: dataset, builtin_families())
    gaps: dict[str, list[Any]] = {"box": [], "score": [], "mask": []}
    total = 0
    with in_half(detector) as half:
        for batch in Batches(dataset, 1, limit=images):
            (ours,), (theirs,) = (Reference(one).run(batch) for one in (detector, half))
            theirs = replace(theirs, boxes=theirs.boxes.astype(np.float16).astype(np.float32))
            total += int((ours.scores >= HALF.min_score).sum())
            for name, gap in differences(ours, theirs, HALF).items():
                gaps[name].append(gap)
    every = {name: np.concatenate(those) for name, those in gaps.items() if those}
    worst = [f"{np.abs(every[name]).max():.2g}" if name in every else "" for name in gaps]
    means = [f"{np.abs(every['box'].mean(axis=0)).max():.2g}"]
    means += [f"{every[name].mean():+.2g}" if name in every else "" for name in ("score", "mask")]
    return [spec.name, str(total), str(len(every["box"])), *worst, *means]


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--models", default="", help="names, separated by commas; default: all")
    arguments.add_argument("--images", type=int, default=16, help="of the drawn ones; default 16")
    options = arguments.parse_args()
    wanted = [name for name in options.models.split(",") if name]
    print("| model | detections | in both | box | score | mask | mean box | score | mask |")
    print("|---|" + "--:|" * 8)
    for spec in mini_specs():
        if not wanted or spec.name in wanted:
            print(f"| {' | '.join(row(spec, options.images))} |", flush=True)


if __name__ == "__main__":
    main()
