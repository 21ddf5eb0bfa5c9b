"""Random weights that detect something: for checking a graph's structure without a checkpoint.

A freshly initialised detector finds nothing: normalisation statistics do not fit, scores sit below
every threshold and hardly vary, residual branches are zero. :func:`calibrate` sets, from a few
images, what training would have set at least: BatchNorm's running statistics; weights that are
zero, such as those of deformable convolutions' offsets; the spread of each score layer's logits,
and their bias so that a chosen share is above the config's threshold; the spread of box and mask
layers. Everything else stays as seeded.
The detections mean nothing, but they exist and differ.
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
SILENT = 0.01  # the spread of a layer's weights that were all zero
BRANCH = 0.2  # of a residual branch's output, against 1
#: So many branches one after another may be as large as that; of more each is smaller. Of 33
#: (ResNeXt-101) with 0.2 each PyTorch's float32 is 1.5e-3 from float64 where values vary by 3.
BRANCHES = 16
# Of layers that start at zero, against their inputs. Where offsets of deformable convolutions are
# some cells, a random network makes of float32's noise a thousand times as much from end to end.
WOKEN = 0.02


class DetectorFails(Exception):
    """The detector itself fails on the images it is calibrated on; they may be too small for it."""


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
        rising: whether what is blank, an input of zeros, is to get less than the mean.
    """

    layer: nn.Module
    std: float = 1.0
    share: float | None = None
    level: float = 0.0
    period: int = 1
    phase: int = 0
    rest: bool = False
    rising: bool = False

    def channels(self, count: int) -> Tensor:
        """Which output channels of ``count`` are meant, bool (count,)."""
        phase = torch.arange(count) % self.period
        return phase >= self.phase if self.rest else phase == self.phase


@dataclass(frozen=True)
class Drawn:
    """Parameters that training learns by themselves, drawn evenly between two limits.

    Attributes:
        parameter: (P, C).
        low, high: of each of the C columns.
    """

    parameter: Tensor
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Calibration:
    """What to set in a detector; its family says so.

    Attributes:
        passes: targets that are set together, pass after pass: what a later one is to see may
            exist only after an earlier one.
        damped: the last normalisation layers of residual branches that are made small beside what
            they add to. Training starts from such weights (Goyal et al., arXiv:1706.02677,
            section 5.1).
        single: whether the detector takes one image at a time.
        images: how many images it is calibrated on; None: as many as all are.
        unbiased: layers that give nothing where they see nothing: their bias is set to 0.
        still: layers that give 0 whatever they see, up to the pass that they are targets of.
        drawn: what is drawn before anything is looked at.
    """

    passes: Sequence[Sequence[Target]]
    damped: Sequence[nn.Module] = ()
    single: bool = False
    images: int | None = None
    unbiased: Sequence[nn.Module] = ()
    still: Sequence[nn.Module] = ()
    drawn: Sequence[Drawn] = ()


def calibrate(
    detector: nn.Module,
    images: Tensor,
    metas: Sequence[Mapping[str, Any]],
    calibration: Calibration,
    seed: int = 0,
) -> None:
    """Makes a randomly initialised detector detect, in place.

    Args:
        detector: in eval mode.
        images: float32 (N, 3, H, W), a few typical inputs.
        metas: their img_metas.
        calibration: what to set.
        seed: of the noise for layers that start at zero.

    Raises:
        DetectorFails: it does not run on them.
    """
    try:
        _calibrate(detector, images, metas, calibration, seed)
    except (RuntimeError, ValueError, IndexError) as error:
        size = " x ".join(map(str, images.shape[2:]))
        raise DetectorFails(f"PyTorch fails on images of {size}: {error}") from error


def _calibrate(
    detector: nn.Module,
    images: Tensor,
    metas: Sequence[Mapping[str, Any]],
    calibration: Calibration,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        _wake(detector, seed)
        for norm in calibration.damped:
            weight: Any = norm.weight
            weight.fill_(BRANCH)
        for one in calibration.drawn:
            low, high = torch.tensor(one.low), torch.tensor(one.high)
            one.parameter.copy_(low + (high - low) * torch.rand(one.parameter.shape))
        for layer in (*calibration.unbiased, *calibration.still):
            bias: Any = layer.bias
            bias.zero_()
        for layer in calibration.still:
            weight = layer.weight
            weight.zero_()
        _set_batch_norm(detector, images)
        for targets in calibration.passes:
            for layer in (target.layer for target in targets):
                own: Any = layer
                if not bool(own.weight.any()):  # what it says would not depend on what it sees
                    nn.init.normal_(own.weight, std=SILENT)
            with _recorded([target.layer for target in targets]) as seen:
                step = 1 if calibration.single else len(images)
                for start in range(0, len(images), step):
                    part = slice(start, start + step)
                    _run(detector, images[part], metas[part])
            for target in targets:
                if seen[target.layer]:
                    _spread(target, seen[target.layer])


def _wake(detector: nn.Module, seed: int) -> None:
    """Gives weights that start at zero small values, in place: what they do would not show.

    Most of mmdet's residual branches start there, and so do offsets of deformable convolutions,
    attention blocks beside a convolution, and recursive pyramids. Branches of ResNeXt and others
    start as large as what they are added to, and are made as small.
    """
    generator = torch.Generator().manual_seed(seed)
    named = detector.named_parameters()
    silent = [one for name, one in named if not name.endswith("bias") and not bool(one.any())]
    scales = [value for value in silent if value.dim() <= 1] + _whole_branches(detector)
    for value in scales:
        value.fill_(BRANCH * min(1.0, BRANCHES / len(scales)))
    for value in [*silent, *_offsets(detector)]:
        if value.dim() > 1:
            spread = WOKEN / value[0].numel() ** 0.5
            value.copy_(spread * torch.randn(value.shape, generator=generator))


def _offsets(detector: nn.Module) -> list[Tensor]:
    """Weights of the layers that say where deformable convolutions look.

    They are to start at 0 (arXiv:1703.06211, section 2.1). Where a backbone's first weights are
    drawn for all of its convolutions, offsets are several cells, and rounding grows from block to
    block: PyTorch's float32 was 1.7 from float64 where values vary by 0.9.
    """
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    kinds = (DeformConv2dPack, ModulatedDeformConv2dPack)
    layers: list[Any] = [one for one in detector.modules() if isinstance(one, kinds)]
    return [layer.conv_offset.weight for layer in layers]


def _whole_branches(detector: nn.Module) -> list[Tensor]:
    """Scales of residual branches that are as fresh ones are: 1."""
    from mmdet.models.backbones.resnet import BasicBlock, Bottleneck

    blocks = [one for one in detector.modules() if isinstance(one, BasicBlock | Bottleneck)]
    norms: list[Any] = [getattr(block, "norm3", None) or block.norm2 for block in blocks]
    scales = [norm.weight for norm in norms if getattr(norm, "weight", None) is not None]
    return [scale for scale in scales if bool((scale == 1).all())]


def _run(detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]) -> None:
    detector(img=[images], img_metas=[[dict(m) for m in metas]], return_loss=False, rescale=False)


def _batch_norms(detector: nn.Module) -> list[_BatchNorm]:
    return [module for module in detector.modules() if isinstance(module, _BatchNorm)]


def _set_batch_norm(detector: nn.Module, images: Tensor) -> None:
    norms = _batch_norms(detector)
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
    layer: Any = target.layer
    if target.rising:
        blank = 0.0 if layer.bias is None else layer.bias[chosen].mean()
        if values.mean() < blank:
            values = 2 * blank - values
            layer.weight[chosen] *= -1
    mean, std = values.mean(), values.std().clamp(min=1e-6)
    factor = target.std / std
    shift = torch.zeros(())
    if target.share is not None:
        flat = ((values - mean) * factor).flatten()
        rank = max(1, min(len(flat), round(target.share * len(flat))))
        threshold = flat.kthvalue(len(flat) - rank + 1).values
        closer = (REACH / (flat.max() - threshold).clamp(min=1e-6)).clamp(max=1.0)
        factor, shift = factor * closer, target.level - threshold * closer
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(len(chosen)))
    if chosen.all():  # whatever the weight's layout
        layer.weight *= factor
    else:
        layer.weight[chosen] *= factor
    layer.bias[chosen] = (layer.bias[chosen] - mean) * factor + shift


def logit(probability: float) -> float:
    """The logit of a probability, at most 9.2 from 0."""
    probability = min(max(probability, 1e-4), 1 - 1e-4)
    return float(np.log(probability / (1 - probability)))


def last(layers: nn.Module) -> nn.Module:
    """The last of a sequence of layers; another layer itself."""
    module: nn.Module = layers[-1] if isinstance(layers, nn.Sequential) else layers
    return module
