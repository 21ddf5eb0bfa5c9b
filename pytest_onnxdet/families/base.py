"""What a deploy model is: a detector's own layers, with decoding that is batch-first and traces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pytest_onnxdet.core.patching import overridden
from pytest_onnxdet.families.ops.lowering import Lowering


@dataclass(frozen=True)
class Limits:
    """Caps on candidates. None and 0 leave what PyTorch does: exact equality needs no cap.

    Attributes:
        nms_pre: candidates of each level before suppression; None: the config's ``nms_pre``.
        deploy_nms_pre: candidates of an image over all levels before suppression; 0: no cap.
        max_per_img: detections of an image; None: the config's ``max_per_img``.
        max_output_boxes_per_class: detections of an image and class; None: no cap.
    """

    nms_pre: int | None = None
    deploy_nms_pre: int = 0
    max_per_img: int | None = None
    max_output_boxes_per_class: int | None = None

    @classmethod
    def from_config(cls, deploy: Mapping[str, Any]) -> Limits:
        """Reads the caps that are asked for by name, ignoring other keys."""
        return cls(**{key: deploy[key] for key in asdict(cls()) if key in deploy})


# Among raw outputs the one that is no head's: all later layers of a two-stage model work on it.
PROPOSALS = "proposals"


class DeployModel(nn.Module, ABC):
    """A detector as one function of tensors, see the graph's contract in the package's docs.

    Attributes:
        outputs: names of what :meth:`forward` returns, in order.
    """

    outputs: ClassVar[tuple[str, ...]] = ("dets", "labels")

    def __init__(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> None:
        super().__init__()
        self.detector = detector
        self.lowering = lowering
        self.limits = limits

    @abstractmethod
    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        """Detects.

        Args:
            input: float32 (N, 3, H, W), normalised images, zero-padded to one size.
            image_shape: int64 (N, 2), height and width of each image before padding.

        Returns:
            ``dets`` float32 (N, K, 5), ``labels`` int64 (N, K), perhaps ``masks``
            float32 (N, K, h, w), of regions or, where the family has ``image_maps``, of the image;
            in network-input pixels, sorted by score.
        """

    @abstractmethod
    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        """The heads' outputs before any decoding, by name and level.

        Two-stage models: the proposal network's, and :data:`PROPOSALS`, float32 (N, K, 6), what was
        chosen of them: corners, score and level; the score is 0 in empty slots.
        """


class RawOutputs(nn.Module):
    """A deploy model without post-processing, as a module that an exporter can take."""

    def __init__(self, model: DeployModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        """The values of :meth:`DeployModel.raw`, in order."""
        return tuple(self.model.raw(input, image_shape).values())


def features(detector: nn.Module, input: Tensor) -> tuple[Tensor, ...]:
    """Backbone and neck, as the detector runs them.

    Args:
        detector: one of mmdet's.
        input: float32 (N, C, H, W), normalised and padded.

    Returns:
        float32 (N, channels, h, w) maps, the finest level first.
    """
    result: tuple[Tensor, ...] = detector.extract_feat(input)
    return result


def named_levels(outputs: Any, kinds: Sequence[str] = ()) -> dict[str, Tensor]:
    """Names for a dense head's outputs: ``cls_score_0``, ``bbox_pred_0``, …, level by level.

    Args:
        outputs: what the head's forward returns: lists over levels of (N, C, H, W) maps.
        kinds: what the lists are called; empty: as their number says.
    """
    usual = {
        1: ("pred_map",),
        2: ("cls_score", "bbox_pred"),
        3: ("cls_score", "bbox_pred", "centerness"),
    }
    names = kinds or usual.get(len(outputs), tuple(f"output{i}" for i in range(len(outputs))))
    return {
        f"{name}_{level}": value
        for name, levels in zip(names, outputs, strict=False)
        for level, value in enumerate(levels)
    }


def joined(levels: Sequence[Tensor], width: int) -> Tensor:
    """All levels' maps (N, A * width, H, W) as rows (N, P, width), in the priors' order."""
    flat = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in levels], dim=1)
    return flat.reshape(levels[0].shape[0], -1, width)


def split_raw(
    outputs: Mapping[str, NDArray[Any]],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32] | None]:
    """Raw outputs as the heads' and, of two-stage models, the proposals chosen of them.

    Args:
        outputs: of a graph of :class:`RawOutputs`, by name.

    Returns:
        The heads' float32 maps by name; the proposals float32 (N, K, 6): corners in network-input
        pixels, score (0 in empty slots), level. None where the model has no proposals.
    """
    heads = dict(outputs)
    return heads, heads.pop(PROPOSALS, None)


def outputs_replaced(module: nn.Module, outputs: Any) -> AbstractContextManager[None]:
    """For the duration of the block, a module returns these outputs, whatever its inputs."""
    return overridden(module, forward=lambda *_: outputs)
