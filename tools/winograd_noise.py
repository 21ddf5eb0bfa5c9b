"""How much farther from float64 Winograd's convolutions are than direct ones, for each mini.

Usage: python tools/winograd_noise.py [--models NAME,...] [--images N]

GPU libraries compute 3 x 3 convolutions by Winograd's minimal filtering, whose transforms lose
digits. No GPU is needed to see how many: here every such convolution of a mini is taken by
F(4x4, 3x3) in float32 (A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, 2015),
and its raw outputs are held against float64's. The table has the distance in units of what the
recording measures of PyTorch's own float32: the worst element and the root mean square of the
output in which that is most. A GPU's allowances are wider by :data:`reference.noise.GPU`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_onnxdet.data.batches import Batches
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.models.build import load_config
from pytest_onnxdet.models.mini import mini_specs
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.run.noise import measure

_INPUT = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
_KERNEL = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def winograd(images: Tensor, kernel: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """A 3 x 3 convolution of stride 1 by F(4x4, 3x3).

    Args:
        images: (N, C, H, W).
        kernel: (K, C, 3, 3).
        bias: (K,) or None.
        padding: pixels on each side.

    Returns:
        (N, K, H + 2 * padding - 2, W + 2 * padding - 2).
    """
    left, middle, right = (images.new_tensor(m) for m in (_INPUT, _KERNEL, _OUTPUT))
    height, width = (int(s) + 2 * padding - 2 for s in images.shape[2:])
    down, across = -(-height // 4), -(-width // 4)
    images = F.pad(images, (padding, padding + 4 * across - width,
                            padding, padding + 4 * down - height))  # fmt: skip
    tiles = images.unfold(2, 6, 4).unfold(3, 6, 4)
    tiles = left @ tiles @ left.T
    kernels = middle @ kernel @ middle.T
    products = torch.einsum("ncyxij,kcij->nkyxij", tiles, kernels)
    out = (right @ products @ right.T).permute(0, 1, 2, 4, 3, 5)
    out = out.reshape(*out.shape[:2], 4 * down, 4 * across)[:, :, :height, :width]
    return out if bias is None else out + bias[:, None, None]


@contextmanager
def by_winograd() -> Iterator[list[int]]:
    """For the duration of the block, 3 x 3 convolutions of stride 1; gives how many there were."""
    original, count = F.conv2d, [0]

    def conv2d(
        images: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        pair = (padding, padding) if isinstance(padding, int) else tuple(padding)
        plain = groups == 1 and {*np.ravel(stride), *np.ravel(dilation)} == {1}
        if weight.shape[2:] != (3, 3) or not plain or len(set(pair)) > 1:
            return original(images, weight, bias, stride, padding, dilation, groups)
        count[0] += 1
        return winograd(images, weight, bias, int(pair[0]))

    F.conv2d = conv2d
    try:
        yield count
    finally:
        F.conv2d = original


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--models", default="", help="names, separated by commas; default: all")
    arguments.add_argument("--images", type=int, default=4, help="of the drawn ones; default 4")
    options = arguments.parse_args()
    from pytest_onnxdet.families.registry import builtin_families
    from pytest_onnxdet.run.detectors import make_detector

    families = builtin_families()
    wanted = [name for name in options.models.split(",") if name]
    print("| model | convolutions an image | worst element | root mean square |")
    print("|---|--:|--:|--:|")
    for spec in mini_specs():
        if wanted and spec.name not in wanted:
            continue
        data, config = builtin_datasets().get(spec.dataset), load_config(spec)
        dataset = load_dataset(data, config)
        detector = make_detector(spec, Path(), None, partial(load_dataset, data, config), families)
        reference = Reference(detector)
        batches = list(Batches(dataset, 1, limit=options.images))
        raw = [reference.raw(batch) for batch in batches]
        noise = measure(reference, batches, raw, [])
        with by_winograd() as count:
            other = [reference.raw(batch) for batch in batches]
        worst = rms = 0.0
        for name, own in noise.maps.items():
            gaps = np.concatenate(
                [
                    np.abs(o[name].astype(np.float64) - e[name]).ravel()
                    for o, e in zip(other, noise.exact, strict=True)
                ]
            )
            worst = max(worst, float(gaps.max()) / max(own.worst, own.step))
            rms = max(rms, float(np.sqrt((gaps**2).mean())) / max(own.rms, 0.29 * own.step))
        print(f"| {spec.name} | {count[0] // len(batches)} | {worst:.1f} | {rms:.1f} |", flush=True)


if __name__ == "__main__":
    main()
