"""How random weights of each dense head are made to detect something.

Scores of few priors are above the config's threshold, boxes are of the size of their priors or of
a few cells, and both vary. See :mod:`pytest_onnxdet.models.calibrate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pytest_onnxdet.families.classes import nearest, resolve
from pytest_onnxdet.models.calibrate import Calibration, Target, last, logit

#: Logits of scores spread so far, and this share of them is above the threshold by so much.
SPREAD, SHARE, ABOVE = 1.5, 0.002, 1.5


def calibration_of(head: Any) -> Calibration | None:
    """What to set in a dense head of mmdet's, or of a subclass; None: nobody said."""
    kind = nearest(type(head), _CALIBRATIONS)
    if kind is None:
        return None
    passes = next(make for path, make in _CALIBRATIONS.items() if resolve(path) is kind)
    # mmdet's masked convolutions take one image at a time.
    single = kind is resolve("mmdet.models.GARetinaHead")
    return Calibration(passes(head), single=single)


def _score(layer: nn.Module, head: Any, factor: float = 1.0, share: float = SHARE) -> Target:
    """A layer of class logits; ``factor``: what probabilities are multiplied with beforehand."""
    level = logit(min(head.test_cfg.score_thr / factor, 0.5))
    return Target(layer, SPREAD, share, level + ABOVE)


def _about(layer: nn.Module, std: float, level: float) -> Target:
    """A layer whose outputs lie about a level."""
    return Target(layer, std, 0.5, level)


def _anchors(score: str, boxes: str, *factors: str) -> Callable[[Any], Sequence[Sequence[Target]]]:
    """Of a head whose layers have these names: logits, deltas to anchors, factors' logits."""

    def passes(head: Any) -> Sequence[Sequence[Target]]:
        return [
            [
                _score(getattr(head, score), head),
                Target(getattr(head, boxes), 0.3),
                *(Target(getattr(head, name)) for name in factors),
            ]
        ]

    return passes


def _ssd(head: Any) -> Sequence[Sequence[Target]]:
    scores = [
        # Background, the last channel, is far above most of the classes.
        Target(last(layers), 1.0, 0.02, 3.0, head.cls_out_channels, 0, rest=True)
        for layers in head.cls_convs
    ]
    return [[*scores, *(Target(last(layers)) for layers in head.reg_convs)]]


def _fcos(head: Any) -> Sequence[Sequence[Target]]:
    # Distances in strides that are cut at 0, else their logarithms in pixels.
    linear = getattr(head, "norm_on_bbox", False)
    boxes = _about(head.conv_reg, 0.6, 2.0) if linear else Target(head.conv_reg, 0.6)
    return [[_score(head.conv_cls, head), boxes, Target(head.conv_centerness)]]


def _autoassign(head: Any) -> Sequence[Sequence[Target]]:
    boxes = _about(head.conv_reg, 0.6, 2.0)
    return [[_score(head.conv_cls, head), boxes, Target(head.conv_centerness)]]


def _vfnet(head: Any) -> Sequence[Sequence[Target]]:
    # The first boxes decide where the second ones' layers look.
    level = 0.7 if head.bbox_norm_type == "stride" else -1.0
    first = [_about(head.vfnet_reg, 0.4, level)]
    return [first, [_score(head.vfnet_cls, head), Target(head.vfnet_reg_refine, 0.3)]]


def _yolof(head: Any) -> Sequence[Sequence[Target]]:
    return [
        [
            _score(head.cls_score, head),
            _about(head.object_pred, 1.0, 2.0),
            Target(head.bbox_pred, 0.3),
        ]
    ]


def _gfl(head: Any) -> Sequence[Sequence[Target]]:
    # Of each side's distances 0 is the likeliest: their mean is some strides, not half of all.
    bins = head.reg_max + 1
    boxes = [
        Target(head.gfl_reg, 1.0, 0.5, 2.5, bins, 0),
        Target(head.gfl_reg, 1.0, None, 0.0, bins, 1, rest=True),
    ]
    return [[_score(head.gfl_cls, head), *boxes]]


def _tood(head: Any) -> Sequence[Sequence[Target]]:
    # A score is the root of a product, of which one factor is about a half.
    level = logit(min(2 * head.test_cfg.score_thr**2, 0.5))
    boxes = _about(head.tood_reg, 0.4, 0.7 if head.anchor_type == "anchor_free" else 0.0)
    return [
        [
            Target(head.tood_cls, SPREAD, SHARE, level + 2 * ABOVE),
            Target(head.cls_prob_module[-1]),
            boxes,
            Target(head.reg_offset_module[-1], 0.7),
        ]
    ]


def _fovea(head: Any) -> Sequence[Sequence[Target]]:
    boxes = [Target(head.conv_reg, 0.3)]
    return [boxes, [_score(head.conv_cls, head)]]


def _reppoints(head: Any) -> Sequence[Sequence[Target]]:
    points = 0.5 if head.use_grid_points else 1.5
    return [
        [Target(head.reppoints_pts_init_out, points)],
        [
            _score(head.reppoints_cls_out, head),
            Target(head.reppoints_pts_refine_out, points / 3),
        ],
    ]


def _sabl(head: Any) -> Sequence[Sequence[Target]]:
    return [
        [
            _score(head.retina_cls, head),
            Target(head.retina_bbox_cls, 1.5),
            Target(head.retina_bbox_reg, 0.3),
        ]
    ]


def _guided(head: Any) -> Sequence[Sequence[Target]]:
    # Half of the places are looked at, in the end: elsewhere masked layers give 0.
    level = logit(head.loc_filter_thr)
    every = Target(head.conv_loc, 1.0, 0.9999, level + 0.1)
    return [
        [every, Target(head.conv_shape, 0.3)],
        [_score(head.retina_cls, head, share=10 * SHARE), Target(head.retina_reg, 0.3)],
        [_about(head.conv_loc, 1.0, level)],
    ]


def _paa(head: Any) -> Sequence[Sequence[Target]]:
    # A score is the root of a product, of which one factor is about a half.
    level = logit(min(2 * head.test_cfg.score_thr**2, 0.5))
    return [
        [
            Target(head.atss_cls, SPREAD, SHARE, level + 2 * ABOVE),
            Target(head.atss_reg, 0.3),
            Target(head.atss_centerness),
        ]
    ]


def _yolox(head: Any) -> Sequence[Sequence[Target]]:
    scores = [_score(layer, head, 0.5) for layer in head.multi_level_conv_obj]
    others = [
        target
        for cls, reg in zip(head.multi_level_conv_cls, head.multi_level_conv_reg, strict=True)
        for target in (
            Target(cls),
            Target(reg, 0.5, None, 0.0, 4, 0),
            Target(reg, 0.5, None, 0.0, 4, 1),
            # Sizes are logarithms, in strides.
            Target(reg, 0.4, 0.5, 1.2, 4, 2, rest=True),
        )
    ]
    return [[*scores, *others]]


_CALIBRATIONS: dict[str, Callable[[Any], Sequence[Sequence[Target]]]] = {
    "mmdet.models.SSDHead": _ssd,
    "mmdet.models.FCOSHead": _fcos,
    "mmdet.models.AutoAssignHead": _autoassign,
    "mmdet.models.RetinaHead": _anchors("retina_cls", "retina_reg"),
    "mmdet.models.RetinaSepBNHead": _anchors("retina_cls", "retina_reg"),
    "mmdet.models.ATSSHead": _anchors("atss_cls", "atss_reg", "atss_centerness"),
    "mmdet.models.DDODHead": _anchors("atss_cls", "atss_reg", "atss_iou"),
    "mmdet.models.VFNetHead": _vfnet,
    "mmdet.models.YOLOFHead": _yolof,
    "mmdet.models.GFLHead": _gfl,
    "mmdet.models.TOODHead": _tood,
    "mmdet.models.FoveaHead": _fovea,
    "mmdet.models.RepPointsHead": _reppoints,
    "mmdet.models.SABLRetinaHead": _sabl,
    "mmdet.models.GARetinaHead": _guided,
    "mmdet.models.PAAHead": _paa,
    "mmdet.models.YOLOXHead": _yolox,
}
