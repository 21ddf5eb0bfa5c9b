"""What is translated to ONNX here: NonMaxSuppression, RoiAlign and group normalisation.

PyTorch lacks the first two. Each is a ``torch.library`` operator: an eager implementation for the
deploy model run in PyTorch, and a translation to one default-domain ONNX operator. The deploy
modules only ever call the functions of this file, so an exporter other than TorchScript's needs
another translation here and nothing elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pytest_onnxdet.families.ops.opset import NeedsOpset
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

ensure_torchvision()  # mmcv, imported where an operator runs in PyTorch, imports torchvision

# The operators are defined by hand: the first call of a ``torch.library.custom_op`` imports
# torch._dynamo, which takes as long as importing PyTorch and mmdet.
_LIBRARY = torch.library.Library("onnxdet", "DEF")
_LIBRARY.define(
    "non_max_suppression(Tensor boxes, Tensor scores, int limit, float iou_threshold) -> Tensor"
)
_LIBRARY.define(
    "roi_align(Tensor features, Tensor boxes, Tensor image, int height, int width, float scale, "
    "int sampling_ratio, bool aligned) -> Tensor"
)
_EVERY_DEVICE = "CompositeExplicitAutograd"


@torch.library.impl(_LIBRARY, "non_max_suppression", _EVERY_DEVICE)
def _non_max_suppression(boxes: Tensor, scores: Tensor, limit: int, iou_threshold: float) -> Tensor:
    from mmcv.ops import nms

    selected = []
    for n, c in torch.nonzero((scores > 0).any(dim=2)).tolist():
        index = torch.nonzero(scores[n, c] > 0)[:, 0]
        _, keep = nms(boxes[n, index], scores[n, c, index], iou_threshold)
        keep = index[keep[:limit]]
        where = torch.tensor([[n, c]], device=boxes.device).expand(len(keep), 2)
        selected.append(torch.cat([where, keep[:, None]], dim=1))
    return torch.cat(selected) if selected else boxes.new_zeros((0, 3), dtype=torch.int64)


@torch.library.register_fake("onnxdet::non_max_suppression", lib=_LIBRARY)
def _(boxes: Tensor, scores: Tensor, limit: int, iou_threshold: float) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((count, 3), dtype=torch.int64)


def non_max_suppression(boxes: Tensor, scores: Tensor, limit: int, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression, each image and class by itself.

    The ONNX operator NonMaxSuppression with a score threshold of 0: a box is dropped when its
    intersection over union with a kept box is above ``iou_threshold``, as in mmcv's ``nms``.

    Args:
        boxes: float32 (N, P, 4), corners.
        scores: float32 (N, C, P); entries that are not above 0 do not take part.
        limit: the maximum of boxes kept for an image and class.
        iou_threshold: between 0 and 1.

    Returns:
        int64 (M, 3): image, class and box index of each kept box, best first per image and class.
    """
    result: Tensor = torch.ops.onnxdet.non_max_suppression(boxes, scores, limit, iou_threshold)
    return result


@torch.library.impl(_LIBRARY, "roi_align", _EVERY_DEVICE)
def _roi_align(
    features: Tensor,
    boxes: Tensor,
    image: Tensor,
    height: int,
    width: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    from mmcv.ops import roi_align

    if not len(boxes):
        return features.new_zeros((0, features.shape[1], height, width))
    rois = torch.cat([image[:, None].to(boxes), boxes], dim=1)
    result: Tensor = roi_align(
        features, rois, (height, width), scale, sampling_ratio, "avg", aligned
    )
    return result


@torch.library.register_fake("onnxdet::roi_align", lib=_LIBRARY)
def _(
    features: Tensor,
    boxes: Tensor,
    image: Tensor,
    height: int,
    width: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return features.new_empty((boxes.shape[0], features.shape[1], height, width))


def roi_align(
    features: Tensor,
    boxes: Tensor,
    image: Tensor,
    size: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Average RoI align of boxes on one feature level: the ONNX operator RoiAlign.

    Args:
        features: float32 (N, C, H, W).
        boxes: float32 (R, 4), corners in network-input pixels.
        image: int64 (R,), the image of each box.
        size: output height and width.
        scale: feature pixels per input pixel (1 / stride).
        sampling_ratio: samples per bin and axis; 0 adapts it to the box.
        aligned: sample at pixel centres (needs opset 16 in ONNX).

    Returns:
        float32 (R, C, height, width).
    """
    result: Tensor = torch.ops.onnxdet.roi_align(
        features, boxes, image, size[0], size[1], scale, sampling_ratio, aligned
    )
    return result


def _constant(value: Any, kind: str) -> Any:
    from torch.onnx import symbolic_helper

    return symbolic_helper._maybe_get_const(value, kind)


def _nms_symbolic(g: Any, boxes: Any, scores: Any, limit: Any, iou_threshold: Any) -> Any:
    return g.op(
        "NonMaxSuppression",
        boxes,
        scores,
        g.op("Constant", value_t=torch.tensor([_constant(limit, "i")])),
        g.op("Constant", value_t=torch.tensor([_constant(iou_threshold, "f")])),
        g.op("Constant", value_t=torch.tensor([0.0])),
    )


def _roi_align_symbolic(opset: int) -> Any:
    def symbolic(
        g: Any,
        features: Any,
        boxes: Any,
        image: Any,
        height: Any,
        width: Any,
        scale: Any,
        sampling_ratio: Any,
        aligned: Any,
    ) -> Any:
        centred = bool(_constant(aligned, "i"))
        attributes: dict[str, Any] = {
            "output_height_i": _constant(height, "i"),
            "output_width_i": _constant(width, "i"),
            "sampling_ratio_i": _constant(sampling_ratio, "i"),
            "spatial_scale_f": _constant(scale, "f"),
            "mode_s": "avg",
        }
        if opset >= 16:
            attributes["coordinate_transformation_mode_s"] = (
                "half_pixel" if centred else "output_half_pixel"
            )
        elif centred:
            # Below 16 the operator widens every box to one feature pixel and knows no half-pixel
            # shift. The shift could be done by hand, the widening cannot be undone.
            raise NeedsOpset(16, "RoiAlign samples at pixel centres only from opset 16 on")
        return g.op("RoiAlign", features, boxes, image, **attributes)

    return symbolic


def _group_norm_symbolic(opset: int) -> Any:
    """Group normalisation (arXiv:1803.08494) with means of means.

    By default it becomes an InstanceNormalization, whose sums ONNX Runtime adds up one by one in
    float32: of a 156 x 156 map they are off by 40 times as much as PyTorch's, and four such layers
    in a row moved FCOS's full-size logits by 5e-4. Means of each row of a map, and then of those,
    are as fast and hardly worse than PyTorch's.
    """

    def symbolic(
        g: Any, input: Any, groups: Any, weight: Any, bias: Any, eps: Any, cudnn_enabled: Any
    ) -> Any:
        from torch.onnx import symbolic_helper

        def constant(*values: float, kind: torch.dtype = torch.int64) -> Any:
            return g.op("Constant", value_t=torch.tensor(values, dtype=kind))

        rank = symbolic_helper._get_tensor_rank(input)
        maps = rank == 4

        def mean(value: Any) -> Any:
            for axis in (3, 2) if maps else (2,):
                if opset >= 18:
                    value = g.op("ReduceMean", value, constant(axis))
                else:
                    value = g.op("ReduceMean", value, axes_i=[axis])
            return value

        # Maps to (N, groups, rows of all its channels, W): a 0 copies the size of the same axis.
        shape = (0, _constant(groups, "i"), -1)
        grouped = g.op("Reshape", input, constant(*shape, *((0,) if maps else ())))
        centred = g.op("Sub", grouped, mean(grouped))
        epsilon = constant(_constant(eps, "f"), kind=torch.float32)
        spread = g.op("Sqrt", g.op("Add", mean(g.op("Mul", centred, centred)), epsilon))
        result = g.op("Reshape", g.op("Div", centred, spread), g.op("Shape", input))
        per_channel = constant(1, -1, *[1] * (rank - 2))
        for name, values in (("Mul", weight), ("Add", bias)):
            if not symbolic_helper._is_none(values):
                result = g.op(name, result, g.op("Reshape", values, per_channel))
        return result.setType(input.type())

    return symbolic


def _unflatten_symbolic(g: Any, input: Any, axis: Any, sizes: Any) -> Any:
    """``unflatten`` as a Reshape whose other sizes stay in the graph.

    By default the axis is computed in the graph, so that the exporter cannot tell the result's
    shape, takes the traced one, and makes constants of sizes that are asked for later.
    """
    from torch.onnx import symbolic_helper

    rank = symbolic_helper._get_tensor_rank(input)
    place = _constant(axis, "i") % rank

    def constant(value: int) -> Any:
        return g.op("Constant", value_t=torch.tensor([value]))

    shape = g.op("Shape", input)
    parts = [sizes]
    if place > 0:
        parts.insert(0, g.op("Slice", shape, constant(0), constant(place)))
    if place < rank - 1:
        parts.append(g.op("Slice", shape, constant(place + 1), constant(rank)))
    return g.op("Reshape", input, g.op("Concat", *parts, axis_i=0))


@contextlib.contextmanager
def translations(opset: int) -> Iterator[None]:
    """For one export at ``opset``: this file's operators, and layers as they trace.

    Group normalisation is translated here, too; what else is replaced lies in
    :mod:`pytest_onnxdet.families.ops.replaced`.
    """
    from torch import onnx

    from pytest_onnxdet.families.ops.replaced import replaced

    onnx.register_custom_op_symbolic("onnxdet::non_max_suppression", _nms_symbolic, opset)
    onnx.register_custom_op_symbolic("onnxdet::roi_align", _roi_align_symbolic(opset), opset)
    onnx.register_custom_op_symbolic("aten::group_norm", _group_norm_symbolic(opset), opset)
    onnx.register_custom_op_symbolic("aten::unflatten", _unflatten_symbolic, opset)
    try:
        with replaced(opset):
            yield
    finally:
        # PyTorch's own operators are translated as before when somebody else exports.
        onnx.unregister_custom_op_symbolic("aten::group_norm", opset)
        onnx.unregister_custom_op_symbolic("aten::unflatten", opset)
