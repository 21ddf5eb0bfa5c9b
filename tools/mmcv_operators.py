"""Every operator of mmcv-full that has CPU code, on seeded inputs, forward and backward.

    python mmcv_operators.py OUT.npz [--minis N]

Writes each result as an array, named after its operator, to be compared with another build's bit by
bit. ``--minis N`` adds every shipped mini detector's detections on the first N images of its data.
Which operators have CPU code is read off mmcv-full's sources: those that register an implementation
for CPU, and those whose only code is the host's. Sparse convolution has some that nothing calls.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

ensure_torchvision()  # mmcv imports it
from mmcv import ops  # noqa: E402

Arrays = dict[str, np.ndarray]
CASES: dict[str, Callable[[], Any]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    """Register a function that returns tensors, or nested tuples and lists of them."""
    CASES[make.__name__] = make
    return make


def leaf(*shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers that gradients are taken to."""
    return (torch.randn(*shape) * scale).requires_grad_()


def differentiated(value: torch.Tensor, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A result and its gradients, each output weighted differently."""
    weights = torch.linspace(-1, 1, value.numel()).reshape(value.shape)
    return value, *torch.autograd.grad((value * weights).sum(), leaves)


def boxes(count: int, size: float = 100.0) -> torch.Tensor:
    """x1, y1, x2, y2 in pixels, many of which overlap."""
    corner = torch.rand(count, 2) * size
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * size / 3], dim=1)


def rotated(count: int) -> torch.Tensor:
    """cx, cy, w, h in pixels and an angle in radians."""
    return torch.cat([torch.rand(count, 2) * 60, 2 + torch.rand(count, 2) * 30,
                      torch.rand(count, 1) * 3], dim=1)  # fmt: skip


def quadrilaterals(count: int) -> torch.Tensor:
    """Four corners each, in pixels."""
    x1, y1, x2, y2 = boxes(count, 60.0).unbind(1)
    return torch.stack([x1, y1, x2, y1 + 1, x2 + 1, y2, x1, y2], dim=1)


def regions(count: int) -> torch.Tensor:
    """Image's number and x1, y1, x2, y2."""
    return torch.cat([torch.randint(2, (count, 1)).float(), boxes(count, 40.0)], dim=1)


@case
def active_rotated_filter() -> Any:
    filters = leaf(4, 3, 8, 3, 3)
    indices = torch.randint(1, 9, (8, 3, 3, 8)).int()
    return differentiated(ops.active_rotated_filter(filters, indices), filters)


@case
def bbox_overlaps() -> Any:
    return [ops.bbox_overlaps(boxes(30), boxes(20), mode=mode, offset=offset)
            for mode in ("iou", "iof") for offset in (0, 1)]  # fmt: skip


@case
def box_iou_quadri() -> Any:
    return ops.box_iou_quadri(quadrilaterals(20), quadrilaterals(15))


@case
def box_iou_rotated() -> Any:
    return [ops.box_iou_rotated(rotated(20), rotated(15), mode=mode) for mode in ("iou", "iof")]


@case
def contour_expand() -> Any:
    masks = (torch.rand(4, 40, 40) > 0.5).numpy().astype(np.uint8)
    labels = np.zeros((40, 40), np.int32)
    labels[5:9, 5:9], labels[25:30, 20:28] = 1, 2
    return torch.tensor(ops.contour_expand(masks, labels, 4, 3))


@case
def deform_conv() -> Any:
    pixels, offset, weight = leaf(2, 4, 17, 19), leaf(2, 36, 17, 19), leaf(6, 2, 3, 3)
    value = ops.deform_conv2d(pixels, offset, weight, 1, 1, 1, 2, 2)
    return differentiated(value, pixels, offset, weight)


@case
def modulated_deform_conv() -> Any:
    pixels, offset, weight = leaf(2, 4, 17, 19), leaf(2, 36, 17, 19), leaf(6, 2, 3, 3)
    mask, bias = leaf(2, 18, 17, 19), leaf(6)
    value = ops.modulated_deform_conv2d(pixels, offset, mask.sigmoid(), weight, bias, 1, 1, 1, 2, 2)
    return differentiated(value, pixels, offset, mask, weight, bias)


@case
def ms_deform_attn() -> Any:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = torch.tensor([[8, 9], [4, 5]])
    value, where, weights = leaf(2, 92, 4, 8), leaf(2, 11, 4, 2, 3, 2), leaf(2, 11, 4, 2, 3)
    result = multi_scale_deformable_attn_pytorch(value, shapes, where.sigmoid(), weights)
    return differentiated(result, value, where, weights)


@case
def nms() -> Any:
    results = []
    for offset in (0, 1):
        results += ops.nms(boxes(300), torch.rand(300), 0.4, offset=offset)
    results += ops.batched_nms(boxes(300), torch.rand(300), torch.randint(4, (300,)),
                             {"type": "nms", "iou_threshold": 0.5})  # fmt: skip
    return results


@case
def nms_match() -> Any:
    dets = torch.cat([boxes(60), torch.rand(60, 1)], dim=1)
    return list(ops.nms_match(dets, 0.3))


@case
def nms_rotated() -> Any:
    return ops.nms_rotated(rotated(80), torch.rand(80), 0.2, labels=torch.randint(2, (80,)))


@case
def nms_quadri() -> Any:
    return ops.nms_quadri(quadrilaterals(80), torch.rand(80), 0.2)


@case
def soft_nms() -> Any:
    return [ops.soft_nms(boxes(80), torch.rand(80), method=method)
            for method in ("linear", "gaussian", "naive")]  # fmt: skip


@case
def pixel_group() -> Any:
    labels = np.zeros((30, 30), np.int32)
    labels[3:9, 3:9], labels[15:25, 12:28] = 1, 2
    score = torch.rand(30, 30).numpy()
    embedding, edges = torch.randn(30, 30, 4).numpy(), (labels > 0).astype(np.uint8)
    grouped = ops.pixel_group(score, score > 0.3, embedding, labels, edges, 3, 0.8)
    return [torch.tensor(points) for points in grouped]


@case
def points_in_boxes_cpu() -> Any:
    points = torch.randn(2, 200, 3) * 4
    cuboids = torch.cat([torch.randn(2, 9, 3), 1 + torch.rand(2, 9, 3) * 4, torch.rand(2, 9, 1)], 2)
    return ops.points_in_boxes_cpu(points, cuboids)


@case
def psa_mask() -> Any:
    pixels = leaf(2, 35, 8, 9)
    return [differentiated(ops.PSAMask(kind, (5, 7))(pixels), pixels)
            for kind in ("collect", "distribute")]  # fmt: skip


@case
def roi_align() -> Any:
    results = []
    for mode in ("avg", "max"):
        for aligned in (True, False):
            pixels = leaf(2, 4, 20, 24)
            layer = ops.RoIAlign((5, 4), 0.5, 2, mode, aligned)
            results.append(differentiated(layer(pixels, regions(30)), pixels))
    return results


@case
def roi_align_rotated() -> Any:
    pixels = leaf(2, 4, 20, 24)
    where = torch.cat([torch.randint(2, (30, 1)).float(), rotated(30)], dim=1)
    layer = ops.RoIAlignRotated((5, 4), 0.5, 2, aligned=True, clockwise=True)
    return differentiated(layer(pixels, where), pixels)


@case
def rotated_feature_align() -> Any:
    pixels = leaf(2, 4, 12, 10)
    best = rotated(240).reshape(2, 12, 10, 5)
    return differentiated(ops.rotated_feature_align(pixels, best, 0.5, 5), pixels)


@case
def voxelization() -> Any:
    points = torch.rand(400, 4) * 8
    sizes: dict[str, Any] = {"voxel_size": [1, 1, 2], "point_cloud_range": [0, 0, 0, 8, 8, 8]}
    hard = ops.Voxelization(**sizes, max_num_points=5, max_voxels=50)
    dynamic = ops.Voxelization(**sizes, max_num_points=-1, max_voxels=-1)
    return [*hard(points), dynamic(points)]


def flat(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Nested results as named arrays."""
    if isinstance(value, torch.Tensor):
        yield name, value.detach().numpy()
    else:
        for index, part in enumerate(value):
            yield from flat(f"{name}.{index}", part)


def run_operators() -> Arrays:
    """Every case's arrays."""
    results: Arrays = {}
    for name, make in CASES.items():
        torch.manual_seed(0)
        results.update(flat(name, make()))
    return results


def run_minis(count: int) -> Arrays:
    """What mmdet's own detectors find in the first images: boxes, labels and masks' pixels."""
    from pytest_onnxdet.data.batches import Batches
    from pytest_onnxdet.data.datasets import builtin_datasets
    from pytest_onnxdet.models.registry import builtin_registry
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.run.bench import Workbench
    from pytest_onnxdet.run.cases import Settings

    results: Arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(cache=Path(folder), limit=count)
        with Workbench(settings, builtin_datasets(), threads=1) as bench:
            for spec in builtin_registry().select(["*"], "mini"):
                reference: Reference = bench.reference(spec)
                for number, batch in enumerate(Batches(bench.dataset(spec), 2)):
                    for index, image in enumerate(reference.run(batch)):
                        name = f"mini {spec.name}.{2 * number + index}"
                        results[f"{name}.boxes"], results[f"{name}.scores"] = (
                            image.boxes,
                            image.scores,
                        )
                        results[f"{name}.labels"] = image.labels
                        for place, mask in enumerate(() if image.masks is None else image.masks):
                            results[f"{name}.masks.{place}"] = mask
    return results


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="the .npz file to write")
    parser.add_argument("--minis", type=int, default=0, help="images of each mini detector's data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    arrays = run_operators()
    if options.minis:
        arrays.update(run_minis(options.minis))
    np.savez(options.out, **arrays)


if __name__ == "__main__":
    main()
