"""CornerNet (arXiv:1808.01244): pairs of corners, for any batch.

Its test pipeline centres each image on a larger canvas. mmdet takes the canvas's border off, clips
at 0 and only then runs soft-NMS, so the border decides overlaps and has to be known in the graph:
it follows from ``image_shape``, the image's size within the canvas, and the pipeline's pad mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.classes import UnsupportedPart, resolve
from pytest_onnxdet.families.family import HEAD_METHODS, Family, Part, Ties
from pytest_onnxdet.families.ops.boxes import quotient, take_rows, with_group_offsets
from pytest_onnxdet.families.ops.corners import soft_nms
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid
from pytest_onnxdet.families.settings import TEST_CFG, require_count, require_cut, require_settings
from pytest_onnxdet.models.calibrate import Calibration, Target
from pytest_onnxdet.models.pipeline import settings_of_steps

NUM_DETS = 1000  # boxes that mmdet's decode_heatmap hands to suppression
MAX_CORNERS = 4096  # of one kind, whose pairs take 64 MiB a map
#: The head's outputs, in the order of its forward; corners are peaks of the first two.
MAPS = ("tl_heat", "br_heat", "tl_emb", "br_emb", "tl_off", "br_off")
CALIBRATED_CLASSES = 20  # that the corners of a detector with random weights are of


class CornerDetector(DeployModel):
    """mmdet's ``CornerHead`` with associative embeddings, over an hourglass network."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        return dict(zip(MAPS, self._heads(input), strict=True))

    def _heads(self, input: Tensor) -> tuple[Tensor, ...]:
        """The six maps of the last level; the others only serve training."""
        head = self.detector.bbox_head
        level = features(self.detector, input)[-1]
        top_left = self._pooled(head.tl_pool[-1], level)
        bottom_right = self._pooled(head.br_pool[-1], level)
        return (
            head.tl_heat[-1](top_left),
            head.br_heat[-1](bottom_right),
            head.tl_emb[-1](top_left),
            head.br_emb[-1](bottom_right),
            head.tl_off[-1](top_left),
            head.br_off[-1](bottom_right),
        )

    def _pooled(self, pool: Any, level: Tensor) -> Tensor:
        """mmdet's BiCornerPool with the scan in place of its corner pooling operator."""
        scanned = []
        for conv, direction in (
            (pool.direction1_conv, pool.direction1_pool),
            (pool.direction2_conv, pool.direction2_pool),
        ):
            scanned.append(self.lowering.corner_pool(conv(level), direction.mode))
        merged = pool.aftpool_conv(scanned[0] + scanned[1])
        result: Tensor = pool.conv2(pool.relu(merged + pool.conv1(level)))
        return result

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head, cfg = self.detector.bbox_head, self.detector.bbox_head.test_cfg
        nms = gaussian_nms(cfg)
        tl_heat, br_heat, tl_emb, br_emb, tl_off, br_off = self._heads(input)
        k, kernel, classes = cfg.corner_topk, cfg.local_maximum_kernel, head.num_classes
        self.lowering.bounded(k, "corner_topk")
        scale = torch.stack(
            [
                torch.ones(()) * input.shape[3] / tl_heat.shape[3],
                torch.ones(()) * input.shape[2] / tl_heat.shape[2],
            ]
        )
        border = self._border(image_shape)[:, None]
        tl_score, tl_cell, tl_class, tl_at = self._corners(tl_heat, tl_off, k, kernel, classes)
        br_score, br_cell, br_class, br_at = self._corners(br_heat, br_off, k, kernel, classes)
        tl_at = (tl_at * scale - border).clamp(min=0)
        br_at = (br_at * scale - border).clamp(min=0)

        distance = (self._at(tl_emb, tl_cell) - self._at(br_emb, br_cell).transpose(1, 2)).abs()
        pair = (
            (tl_class[:, :, None] == br_class[:, None])
            & ~(distance > cfg.distance_threshold)
            & (br_at[:, None, :, 0] > tl_at[:, :, None, 0])
            & (br_at[:, None, :, 1] > tl_at[:, :, None, 1])
        )
        scores = torch.where(pair, (tl_score[:, :, None] + br_score[:, None]) / 2, -1.0)
        scores, at = torch.topk(scores.flatten(1), min(NUM_DETS, k * k), dim=1)
        tl = quotient(at, k)
        boxes = torch.cat([take_rows(tl_at, tl), take_rows(br_at, at - tl * k)], dim=2)
        labels = torch.gather(tl_class, 1, tl)
        # Where boxes overlap decides their scores, and PyTorch has it of rounded boxes. It is exact
        # where the pipeline keeps the image's size, as CornerNet's do. Pairs of score 0, of corners
        # that are no peak, are never kept, but their coordinates count.
        offset_boxes = with_group_offsets(boxes, labels, scores >= 0)
        scores, rank = self.lowering.top(scores, 0, 0.0, min_slots=1)
        limit = cfg.max_per_img if self.limits.max_per_img is None else self.limits.max_per_img
        scores, index = soft_nms(
            take_rows(offset_boxes, rank),
            scores,
            torch.gather(labels, 1, rank),
            float(nms.get("sigma", 0.5)),
            float(nms.get("min_score", 1e-3)),
            min(limit, NUM_DETS, k * k),
        )
        index = torch.gather(rank, 1, index)
        used = scores > 0
        boxes = take_rows(boxes, index) + border.repeat(1, 1, 2)
        dets = torch.cat([boxes, scores[..., None]], dim=-1) * used[..., None].to(boxes.dtype)
        return dets, torch.where(used, torch.gather(labels, 1, index), -1)

    def _border(self, image_shape: Tensor) -> Tensor:
        """Left and top border of each image on its canvas, float32 (N, 2)."""
        step = next(
            (
                step
                for step in settings_of_steps(self.detector.cfg.data.test.pipeline)
                if step["type"] == "RandomCenterCropPad"
            ),
            None,
        )
        if step is None:
            return torch.zeros_like(image_shape, dtype=torch.float32)
        mode, value = step["test_pad_mode"]
        if step.get("test_pad_add_pix", 0):
            raise UnsupportedPart("RandomCenterCropPad with test_pad_add_pix has no lowering")
        if mode == "logical_or" and (value + 1) & value == 0:
            canvas = quotient(image_shape, value + 1) * (value + 1) + value
        elif mode == "size_divisor":
            canvas = quotient(image_shape + value - 1, value) * value
        else:
            raise UnsupportedPart(f"RandomCenterCropPad with test_pad_mode {(mode, value)}")
        half = quotient(canvas, 2)
        border = half - quotient(image_shape, 2)
        return border.flip(1).to(torch.float32)

    @classmethod
    def _corners(
        cls, heat: Tensor, offset: Tensor, k: int, kernel: int, classes: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The k best local maxima of a corner heat map.

        Returns:
            scores float32 (N, k); cells int64 (N, k); classes int64 (N, k); x and y in cells with
            the offset added, float32 (N, k, 2).
        """
        heat = sigmoid(heat)
        peak = functional.max_pool2d(heat, kernel, stride=1, padding=(kernel - 1) // 2)
        heat = torch.where(peak == heat, heat, 0.0)
        score, index = torch.topk(heat.flatten(1), k, dim=1)
        width, cells = heat.shape[3], heat.shape[2] * heat.shape[3]
        label = quotient(index, cells)
        cell = index - label * cells
        row = quotient(cell, width)
        at = torch.stack([cell - row * width, row], dim=-1).to(torch.float32)
        return score, cell, label, at + cls._at(offset, cell)

    @staticmethod
    def _at(maps: Tensor, cell: Tensor) -> Tensor:
        """Values of maps (N, C, H, W) at cells (N, k): (N, k, C)."""
        return take_rows(maps.flatten(2).transpose(1, 2), cell)


def gaussian_nms(cfg: Any) -> dict[str, Any]:
    """The settings of a test_cfg's suppression, which must be Gaussian soft-NMS.

    Raises:
        UnsupportedPart: it is another.
    """
    nms = dict(cfg.get("nms", cfg.get("nms_cfg")))
    if nms.pop("type", "nms") != "soft_nms" or nms.pop("method", "linear") != "gaussian":
        raise UnsupportedPart(
            f"{TEST_CFG}.nms is {dict(cfg.get('nms', cfg.get('nms_cfg')))}; CornerHead's has a "
            "lowering with type 'soft_nms' and method 'gaussian' only"
        )
    return nms


@dataclass(frozen=True, eq=False)
class CornerFamily(Family):
    """Families of a head that :class:`CornerDetector` lowers."""

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        cfg = self.head(detector).test_cfg
        suppression = "nms_cfg" if cfg and "nms_cfg" in cfg else "nms"
        keys = (suppression, "max_per_img", "corner_topk", "local_maximum_kernel")
        require_settings(cfg, TEST_CFG, (*keys, "distance_threshold"))
        fails = "CornerHead in mmdet leaves labels and boxes in different orders then, and fails"
        require_cut(cfg, TEST_CFG, "max_per_img", otherwise=fails)
        why = "all pairs are compared"
        require_count(cfg.corner_topk, TEST_CFG, "corner_topk", most=MAX_CORNERS, why=why)
        kernel = cfg.local_maximum_kernel
        require_count(kernel, TEST_CFG, "local_maximum_kernel")
        if kernel % 2 == 0:
            raise UnsupportedPart(
                f"{TEST_CFG}.local_maximum_kernel is {kernel}: mmdet's maps of maxima are of "
                "another size then, and it fails: give an odd number"
            )
        gaussian_nms(cfg)
        return CornerDetector(detector, lowering, limits)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The six maps of the last level."""
        model: Any = detector
        maps = model.bbox_head(model.extract_feat(images))
        return {name: levels[-1] for name, levels in zip(MAPS, maps, strict=True)}

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        return [[raw[name]] for name in MAPS]

    def final_cut(self, detector: nn.Module) -> tuple[int, int] | None:
        """Of the pairs of corners that soft-NMS ranks."""
        cfg = self.head(detector).test_cfg
        return cfg.max_per_img, min(NUM_DETS, cfg.corner_topk**2)

    def calibration(self, detector: nn.Module) -> Calibration:
        """Scores in two passes: first all classes' spread, then few classes for the corners.

        The residual branches of an hourglass network are made small beside what they add to. With
        branches as large as their input, 104 layers of random weights amplify a rounding to 1e-3
        of a logit.
        """
        head, backbone = self.head(detector), detector.backbone
        heats = [layers[-1].conv for layers in (head.tl_heat[-1], head.br_heat[-1])]
        embeddings = [layers[-1].conv for layers in (head.tl_emb[-1], head.br_emb[-1])]
        # Two corners make a box where they are of one class and their embeddings are near: of
        # 80 classes, and embeddings as random as everything else, hardly any two do.
        few = {"period": head.num_classes, "phase": CALIBRATED_CLASSES, "rest": True}
        passes = [
            [
                *(Target(layer, std=1.5, share=0.02, level=0.0) for layer in heats),
                *(Target(layer, std=0.1) for layer in embeddings),
            ],
            [Target(layer, std=1.5, share=0.02, level=-8.0, **few) for layer in heats],
        ]
        hourglass = isinstance(backbone, resolve("mmdet.models.HourglassNet"))
        block = resolve("mmdet.models.backbones.resnet.BasicBlock")
        blocks: list[Any] = [m for m in backbone.modules() if hourglass and isinstance(m, block)]
        return Calibration(passes, [residual.norm2 for residual in blocks])


CORNERNET = CornerFamily(
    name="cornernet",
    heads=("mmdet.models.CornerHead",),
    head_methods=(*HEAD_METHODS, "decode_heatmap", "_bboxes_nms"),
    parts=tuple(
        Part(f"bbox_head.{pool}", ("mmdet.models.dense_heads.corner_head.BiCornerPool",))
        for pool in ("tl_pool", "br_pool")
    ),
    # Soft-NMS lowers scores where boxes overlap: there is no choice to play back.
    ties=Ties(order=True, suppression=False, peaks=MAPS[:2]),
    uncapped="CornerNet's detections are pairs of corners, cut at test_cfg.max_per_img",
)
