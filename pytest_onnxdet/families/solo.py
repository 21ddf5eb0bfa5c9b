"""SOLO (arXiv:1912.04488): each cell of a grid gives the mask of the instance whose centre it has.

mmdet's head gives a map of every cell of every grid. A cell's score of a class is kept where it is
a local maximum, and multiplied by the mean of its map above the threshold; matrix NMS lowers the
scores of what overlaps. There are no boxes: mmdet's result has zeros in their place, and so has the
graph. The maps come out as ``masks``, at the stride at which mmdet compares them.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.data.image_maps import ImageMaps
from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.family import DETECTOR_METHODS, Family, MapNote, MaskCandidates, Ties
from pytest_onnxdet.families.ops.boxes import quotient, take_rows
from pytest_onnxdet.families.ops.lowering import EVERY, Lowering, sigmoid
from pytest_onnxdet.families.ops.matrix_nms import KERNELS, matrix_nms
from pytest_onnxdet.families.ops.noted import Steps, hooked, steps_of
from pytest_onnxdet.families.settings import TEST_CFG, require_number, require_settings
from pytest_onnxdet.models.calibrate import Calibration, Target, logit

#: What inference uses of mmdet's heads of this kind.
SOLO_METHODS = ("forward", "resize_feats", "simple_test", "get_results", "_get_results_single")
#: mmdet enlarges maps of stride 4 by this factor.
ENLARGED = 4
_KEYS = (
    "score_thr",
    "mask_thr",
    "filter_thr",
    "nms_pre",
    "max_per_img",
    "kernel",
    "sigma",
)


class GridDetector(DeployModel):
    """What SOLO, Decoupled SOLO and SOLOv2 have in common: scores of cells, and masks of them."""

    outputs: ClassVar[tuple[str, ...]] = ("dets", "labels", "masks")

    @abstractmethod
    def cells(self, input: Tensor) -> tuple[list[Tensor], Any]:
        """Each grid's class logits (N, C, G, G), and what :meth:`maps` needs."""

    @abstractmethod
    def maps(self, made: Any, picked: Sequence[Tensor]) -> Tensor:
        """The probabilities of some cells' masks.

        Args:
            made: by :meth:`cells`.
            picked: int64 (N, K) of each grid, cells row by row.

        Returns:
            float32 (N, K of all grids, h, w).
        """

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head, cfg, limits = self.detector.mask_head, self.detector.mask_head.test_cfg, self.limits
        classes = head.cls_out_channels
        logits, made = self.cells(input)
        scores, strides, picked = [], [], []
        for grid, stride in zip(logits, head.strides, strict=True):
            score = local_maxima(sigmoid(grid)).flatten(2).transpose(1, 2)
            best, cell = self.lowering.top(
                score.amax(dim=2), max(limits.deploy_nms_pre, 0), cfg.score_thr, min_slots=1
            )
            scores.append(take_rows(score, cell))
            strides.append(torch.zeros_like(best) + float(stride))
            picked.append(cell)
        score, stride = torch.cat(scores, dim=1), torch.cat(strides, dim=1)
        maps = self.maps(made, picked)
        inside = (maps > cfg.mask_thr).to(maps.dtype)
        # Sums of rows, and then of those, are nearer to the truth than of all pixels in a row.
        area = inside.sum(dim=3).sum(dim=2)
        certainty = (maps * inside).sum(dim=3).sum(dim=2) / area.clamp(min=1.0)
        kept = (score > cfg.score_thr) & (area > stride)[..., None]
        score = torch.where(kept, score * certainty[..., None], 0.0).flatten(1)
        count = cfg.nms_pre if limits.nms_pre is None else limits.nms_pre
        score, pair = self.lowering.top(score, count if count > 0 else EVERY, 0.0, min_slots=1)
        slot = quotient(pair, classes)
        label = pair - slot * classes
        score = matrix_nms(
            take_rows(inside.flatten(2), slot),
            torch.gather(area, 1, slot),
            label,
            score,
            cfg.kernel,
            float(cfg.sigma),
        )
        if cfg.filter_thr > 0:
            score = torch.where(score >= cfg.filter_thr, score, 0.0)
        limit = cfg.max_per_img if limits.max_per_img is None else limits.max_per_img
        # Where all are kept there are no more than before.
        limit = limit if limit > 0 else (count if count > 0 else EVERY)
        score, order = self.lowering.top(score, limit, 0.0, min_slots=1)
        labels = torch.where(score > 0, torch.gather(label, 1, order), -1)
        dets = torch.cat([score[..., None].repeat(1, 1, 4) * 0.0, score[..., None]], dim=2)
        return dets, labels, take_rows(maps, torch.gather(slot, 1, order))


class SoloDetector(GridDetector):
    """``SOLOHead``: a map for each cell."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        logits, (maps, _) = self.cells(input)
        named = {f"cls_score_{level}": value for level, value in enumerate(logits)}
        return named | {f"mask_pred_{level}": value for level, value in enumerate(maps)}

    def cells(self, input: Tensor) -> tuple[list[Tensor], Any]:
        head = self.detector.mask_head
        feats = resized(features(self.detector, input))
        logits, maps = [], []
        for level, feat in enumerate(feats):
            mask = torch.cat([feat, coordinates(feat)], dim=1)
            for layer in head.mask_convs:
                mask = layer(mask)
            mask = functional.interpolate(mask, scale_factor=2, mode="bilinear")
            maps.append(head.conv_mask_list[level](mask))
            logits.append(class_logits(head, feat, level))
        return logits, (maps, doubled(feats[0]))

    def maps(self, made: Any, picked: Sequence[Tensor]) -> Tensor:
        levels, size = made
        return torch.cat(
            [
                functional.interpolate(sigmoid(take_rows(level, cell)), size=size, mode="bilinear")
                for level, cell in zip(levels, picked, strict=True)
            ],
            dim=1,
        )


def local_maxima(scores: Tensor) -> Tensor:
    """Scores (N, C, G, G), 0 where a cell above, to the left or between them scores higher."""
    highest = functional.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (highest == scores).to(scores.dtype)


def resized(feats: Sequence[Tensor]) -> list[Tensor]:
    """The maps of a pyramid, the first as small as the second, the last as large as its fellow."""
    feats = list(feats)
    last = len(feats) - 1
    sizes = [feats[1].shape[2:], *(feat.shape[2:] for feat in feats[1:last])]
    sizes.append(feats[last - 1].shape[2:])
    return [
        functional.interpolate(feat, size=(size[0], size[1]), mode="bilinear", align_corners=False)
        if level in (0, last)
        else feat
        for level, (feat, size) in enumerate(zip(feats, sizes, strict=True))
    ]


def doubled(feat: Tensor) -> tuple[Any, Any]:
    """Twice a map's height and width."""
    return feat.shape[2] * 2, feat.shape[3] * 2


def coordinates(feat: Tensor) -> Tensor:
    """Each cell's x and y, from -1 to 1, of a map (N, C, h, w): (N, 2, h, w).

    The steps of ``torch.linspace``, which goes out from both ends, of sizes that are free.
    """
    lines = []
    for axis in (3, 2):
        cell = torch.arange(feat.shape[axis], device=feat.device).to(feat.dtype)
        back = cell.flip(0)
        step = 2.0 / (cell + back).clamp(min=1.0)
        # The only cell of a side is at its beginning.
        first = (cell < back) | (back == 0) & (cell == 0)
        lines.append(torch.where(first, cell * step - 1.0, 1.0 - back * step))
    place = torch.zeros_like(feat[:, :1])
    return torch.cat([place + lines[0], place + lines[1][:, None]], dim=1)


def class_logits(head: Any, feat: Tensor, level: int) -> Tensor:
    """A grid's class logits (N, C, G, G) of a map, resized to the grid on the way."""
    for place, layer in enumerate(head.cls_convs):
        if place == head.cls_down_index:
            feat = functional.interpolate(feat, size=head.num_grids[level], mode="bilinear")
        feat = layer(feat)
    logits: Tensor = head.conv_cls(feat)
    return logits


@dataclass(frozen=True, eq=False)
class GridFamily(Family):
    """Families of a head that a :class:`GridDetector` lowers."""

    def image_maps(self, detector: nn.Module) -> ImageMaps | None:
        return ImageMaps(ENLARGED, threshold=float(self.head(detector).test_cfg.mask_thr))

    @contextlib.contextmanager
    def noted_maps(self, detector: nn.Module) -> Iterator[list[MapNote]]:
        """What the head enlarges first of each image's result is the maps, in its order."""
        head, notes = self.head(detector), list[MapNote]()
        cfg = head.test_cfg

        def note(result: Any, seen: Steps) -> None:
            if not len(result.labels):
                return
            # Of class scores, of masks, of their areas; and of the masks at the original size.
            (scores, chosen), (maps, _), (_, large) = seen.above[:3]
            candidates = MaskCandidates(
                maps[large],
                scores[chosen][large],
                chosen.nonzero()[large, 1],
                float(cfg.mask_thr),
                cfg.kernel,
                float(cfg.sigma),
                int(cfg.nms_pre),
            )
            notes.append(MapNote(result.labels, seen.interpolated[0][0], candidates))

        with steps_of(head, "_get_results_single", note):
            yield notes

    def check_settings(self, detector: nn.Module) -> None:
        """Refuses settings without a lowering; raises `UnsupportedPart` with the key's path."""
        head = self.head(detector)
        cfg = head.test_cfg
        require_settings(cfg, TEST_CFG, _KEYS)
        for key in ("nms_pre", "max_per_img"):
            require_number(cfg[key], TEST_CFG, key)
        if cfg.kernel not in KERNELS:
            raise UnsupportedPart(
                f"{TEST_CFG}.kernel is {cfg.kernel!r}: matrix NMS knows {' and '.join(KERNELS)}"
            )
        for key in ("score_thr", "mask_thr"):
            if not 0 <= cfg[key] < 1:
                raise UnsupportedPart(
                    f"{TEST_CFG}.{key} is {cfg[key]!r}: give a number from 0 to 1"
                )
        self.check_cls_branch(head)

    def check_cls_branch(self, head: Any) -> None:
        """Refuses a class branch that is nowhere resized to its grid; raises `UnsupportedPart`."""
        if not 0 <= head.cls_down_index < len(head.cls_convs):
            raise UnsupportedPart(
                f"model.mask_head.cls_down_index is {head.cls_down_index} of "
                f"{len(head.cls_convs)} layers: the class branch is never resized to its grid"
            )

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        model: Any = detector
        results = self.head(detector).get_results(*self.head_outputs(raw), img_metas=list(metas))
        return [model.format_results(result) for result in results]

    def calibration(self, detector: nn.Module) -> Calibration:
        head = self.head(detector)
        level = logit(head.test_cfg.score_thr)
        return Calibration([[Target(head.conv_cls, 1.5, 0.02, level), *self.mask_targets(head)]])

    @abstractmethod
    def mask_targets(self, head: Any) -> list[Target]:
        """The layers that decide masks, and how their outputs should be spread."""


@dataclass(frozen=True, eq=False)
class SoloFamily(GridFamily):
    """Families of a head that gives a map for each cell."""

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        self.check_settings(detector)
        return SoloDetector(detector, lowering, limits)

    def mask_layers(self, head: Any) -> dict[str, Any]:
        """By the raw output's name, the lists of layers whose outputs are the masks' logits."""
        return {"mask_pred": head.conv_mask_list}

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Logits of classes and masks: the head's own layers' outputs while it runs."""
        model: Any = detector
        head = self.head(detector)
        layers = self.mask_layers(head)
        with hooked(
            [head.conv_cls, *(layer for each in layers.values() for layer in each)]
        ) as seen:
            head(model.extract_feat(images))
        named = {f"cls_score_{level}": one for level, one in enumerate(seen[head.conv_cls])}
        for name, each in layers.items():
            named |= {f"{name}_{level}": seen[layer][0] for level, layer in enumerate(each)}
        return named

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        raise NotImplementedError("the head's outputs come of a run with these logits")

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        model: Any = detector
        head = self.head(detector)
        given = {head.conv_cls: [raw[f"cls_score_{i}"] for i in range(head.num_levels)]}
        for name, each in self.mask_layers(head).items():
            given |= {layer: [raw[f"{name}_{level}"]] for level, layer in enumerate(each)}
        first = next(iter(self.mask_layers(head)))
        # Of the maps before only their sizes count, which are half of the logits'.
        feats = [
            raw[f"{first}_{level}"].new_zeros(
                len(images), head.in_channels, *(side // 2 for side in size)
            )
            for level, size in enumerate(
                raw[f"{first}_{level}"].shape[2:] for level in range(head.num_levels)
            )
        ]
        with hooked(list(given), given):
            outputs = head(feats)
        results = head.get_results(*outputs, img_metas=list(metas))
        return [model.format_results(result) for result in results]

    def mask_targets(self, head: Any) -> list[Target]:
        return [Target(layer, 2.0) for each in self.mask_layers(head).values() for layer in each]


GRID_DETECTORS = ("mmdet.models.detectors.single_stage_instance_seg.SingleStageInstanceSegmentor",)
GRID_DETECTOR_METHODS = (*DETECTOR_METHODS, "format_results")
#: Which of equal scores comes first, and which pixels are above the threshold.
GRID_TIES = Ties(order=True, suppression=False, pixels=True, images=1.0)
SOLO = SoloFamily(
    name="solo",
    heads=("mmdet.models.SOLOHead",),
    head_path="mask_head",
    head_methods=SOLO_METHODS,
    detectors=GRID_DETECTORS,
    detector_methods=GRID_DETECTOR_METHODS,
    ties=GRID_TIES,
)
