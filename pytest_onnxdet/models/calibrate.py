"""Random weights that detect something: for checking a graph's structure without a checkpoint.

A freshly initialised detector finds nothing: normalisation statistics do not fit, scores sit below
every threshold and hardly vary. :func:`calibrate` sets, from a few images, what training would have
set at least: BatchNorm's running statistics; the spread of each score layer's logits, and their
bias so that a chosen share is above the config's threshold; the spread of box and mask layers.
Everything else stays as seeded. The detections mean nothing, but they exist and differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# By how much a logit may be above its target's level. Random layers have outliers of 30, where
# scores are 1 up to float32's last digits: suppression would decide between ties.
REACH = 6.0
BRANCH = 0.2  # of a residual branch's output, against 1
CORNER_CLASSES = 20  # that CornerNet's corners are of


@dataclass(frozen=True)
class Target:
    """How one layer's outputs should be spread.

    Attributes:
        layer: a convolution or linear layer.
        std: standard deviation of the outputs.
        share: share of the outputs above ``level``; None centres them at 0.
        level: a logit.
        period: outputs are interleaved with this period (YOLO's attributes); 1: not.
        phase: which of the period, or from it on where ``rest`` is set.
        rest: whether ``phase`` and all later ones are meant.
    """

    layer: nn.Module
    std: float = 1.0
    share: float | None = None
    level: float = 0.0
    period: int = 1
    phase: int = 0
    rest: bool = False

    def channels(self, count: int) -> Tensor:
        """Which output channels of ``count`` are meant, bool (count,)."""
        phase = torch.arange(count) % self.period
        return phase >= self.phase if self.rest else phase == self.phase


def calibrate(
    detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]], seed: int = 0
) -> None:
    """Makes a randomly initialised detector detect, in place.

    Args:
        detector: in eval mode.
        images: float32 (N, 3, H, W), a few typical inputs.
        metas: their img_metas.
        seed: of the noise for layers that start at zero.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        _calm_residuals(detector)
        _set_batch_norm(detector, images)
        for targets in _targets(detector):
            with _recorded([target.layer for target in targets]) as seen:
                _run(detector, images, metas)
            for target in targets:
                if seen[target.layer]:
                    _spread(target, seen[target.layer])


def _run(detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]) -> None:
    detector(img=[images], img_metas=[[dict(m) for m in metas]], return_loss=False, rescale=False)


def _calm_residuals(detector: nn.Module) -> None:
    """Makes the residual branches of an hourglass network small beside what they add to.

    Training starts from such weights (Goyal et al., arXiv:1706.02677, section 5.1). With branches
    as large as their input, 104 layers of random weights amplify a rounding to 1e-3 of a logit.
    """
    backbone: Any = getattr(detector, "backbone", None)
    if type(backbone).__name__ != "HourglassNet":
        return
    for module in backbone.modules():
        if type(module).__name__ == "BasicBlock":
            module.norm2.weight.fill_(BRANCH)


def _set_batch_norm(detector: nn.Module, images: Tensor) -> None:
    norms = [module for module in detector.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what is seen
        norm.train()
    features = detector.extract_feat(images)
    head = getattr(detector, "bbox_head", None)
    if head is not None and any(isinstance(module, _BatchNorm) for module in head.modules()):
        head(features)
    for norm, momentum in zip(norms, before, strict=True):
        norm.eval()
        norm.momentum = momentum


@contextlib.contextmanager
def _recorded(layers: Sequence[nn.Module]) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """The outputs of layers during the block, channels first: (C, n)."""
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def hook(layer: nn.Module, _: Any, output: Tensor) -> None:
        if output.numel():
            seen[layer].append(output.transpose(0, 1).flatten(1))

    def last_axis(layer: nn.Module, _: Any, output: Tensor) -> None:
        if output.numel():
            seen[layer].append(output.flatten(0, -2).transpose(0, 1))

    handles = [
        layer.register_forward_hook(last_axis if isinstance(layer, nn.Linear) else hook)
        for layer in seen
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _spread(target: Target, seen: Sequence[Tensor]) -> None:
    """Scales and shifts a layer's weights so that what was seen gets the target's spread."""
    values = torch.cat(list(seen), dim=1)
    chosen = target.channels(len(values))
    values = values[chosen]
    mean, std = values.mean(), values.std().clamp(min=1e-6)
    factor = target.std / std
    shift = torch.zeros(())
    if target.share is not None:
        flat = ((values - mean) * factor).flatten()
        rank = max(1, min(len(flat), round(target.share * len(flat))))
        least = flat.kthvalue(len(flat) - rank + 1).values
        closer = (REACH / (flat.max() - least).clamp(min=1e-6)).clamp(max=1.0)
        factor, shift = factor * closer, target.level - least * closer
    layer: Any = target.layer
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(len(chosen)))
    layer.weight[chosen] *= factor
    layer.bias[chosen] = (layer.bias[chosen] - mean) * factor + shift


def _logit(probability: float) -> float:
    probability = min(max(probability, 1e-4), 1 - 1e-4)
    return float(np.log(probability / (1 - probability)))


def _targets(detector: nn.Module) -> list[list[Target]]:
    """What to set, in passes: regions have to exist before a region head can be looked at."""
    model: Any = detector
    if hasattr(model, "roi_head"):
        return _two_stage(model)
    head = model.bbox_head
    cfg = head.test_cfg
    kind = type(head).__name__
    if kind == "DETRHead":
        return [[Target(head.fc_cls, std=2.0), Target(head.fc_reg)]]
    if kind == "CornerHead":
        heats = [seq[-1].conv for seq in (head.tl_heat[-1], head.br_heat[-1])]
        embeddings = [seq[-1].conv for seq in (head.tl_emb[-1], head.br_emb[-1])]
        # Two corners make a box where they are of one class and their embeddings are near: of
        # 80 classes, and embeddings as random as everything else, hardly any two do.
        few = {"period": head.num_classes, "phase": CORNER_CLASSES, "rest": True}
        return [
            [
                *(Target(layer, std=1.5, share=0.02, level=0.0) for layer in heats),
                *(Target(layer, std=0.1) for layer in embeddings),
            ],
            [Target(layer, std=1.5, share=0.02, level=-8.0, **few) for layer in heats],
        ]
    if kind == "YOLOV3Head":
        return [
            [
                Target(layer, std, share, level, head.num_attrib, phase, rest)
                for layer in head.convs_pred
                for std, share, level, phase, rest in (
                    (1.0, None, 0.0, 0, False),
                    (1.0, None, 0.0, 1, False),
                    (0.4, None, 0.0, 2, False),
                    (0.4, None, 0.0, 3, False),
                    # Priors count from conf_thr on, their classes from score_thr on. With more of
                    # them mmdet would suppress a million.
                    (1.5, 0.02, _logit(cfg.conf_thr), 4, False),
                    (1.5, 0.02, _logit(cfg.score_thr), 5, True),
                )
            ]
        ]
    level = _logit(cfg.score_thr)
    if kind == "SSDHead":
        return [
            [
                *(_foreground(_last(seq), head.cls_out_channels) for seq in head.cls_convs),
                *(Target(_last(seq)) for seq in head.reg_convs),
            ]
        ]
    if kind == "FCOSHead":
        return [
            [
                Target(head.conv_cls, 1.5, 0.002, level + 1.5),
                Target(head.conv_reg, 0.6),
                Target(head.conv_centerness),
            ]
        ]
    return [[Target(head.retina_cls, 1.5, 0.002, level + 1.5), Target(head.retina_reg, 0.3)]]


def _last(layer: Any) -> nn.Module:
    found: nn.Module = layer[-1] if isinstance(layer, nn.Sequential) else layer
    return found


def _foreground(layer: nn.Module, channels: int) -> Target:
    """A softmax score layer: background, its last channel, far ahead of most of the classes."""
    return Target(layer, 1.0, 0.02, 3.0, channels, 0, rest=True)


def _two_stage(model: Any) -> list[list[Target]]:
    rpn, roi = model.rpn_head, model.roi_head
    boxes = list(roi.bbox_head) if isinstance(roi.bbox_head, nn.ModuleList) else [roi.bbox_head]
    # Objectness at its highest is REACH above this level, 0.98: at 16, as it comes out otherwise, a
    # fifth of a level's best thousand scores repeat another, and which are kept is left to chance.
    passes = [[Target(rpn.rpn_cls, 2.0, 0.01, 4.0 - REACH), Target(rpn.rpn_reg, 0.3)]]
    passes += [[Target(head.fc_cls, 2.0), Target(head.fc_reg, 1.0)] for head in boxes]
    if roi.with_mask:
        masks = list(roi.mask_head) if isinstance(roi.mask_head, nn.ModuleList) else [roi.mask_head]
        for head in masks:
            layer = head.conv_logits if hasattr(head, "conv_logits") else head.fc_logits
            passes.append([Target(layer, 2.0)])
        if hasattr(roi, "point_head"):
            passes.append([Target(roi.point_head.fc_logits, 2.0)])
    return passes
