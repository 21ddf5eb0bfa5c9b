"""CornerNet (arXiv:1808.01244): pairs of corners, for any batch.

Its test pipeline centres each image on a larger canvas. mmdet takes the canvas's border off, clips
at 0 and only then runs soft-NMS, so the border decides overlaps and has to be known in the graph:
it follows from ``image_shape``, the image's size within the canvas, and the pipeline's pad mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.classes import UnsupportedPart, resolve
from pytest_onnxdet.families.family import HEAD_METHODS, Family, Part, Ties
from pytest_onnxdet.families.ops.boxes import quotient, take_rows, with_group_offsets
from pytest_onnxdet.families.ops.corners import soft_nms
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.ops.peaks import at_cells, best_peaks, cell_size, require_kernel
from pytest_onnxdet.families.settings import TEST_CFG, require_count, require_cut, require_settings
from pytest_onnxdet.models.calibrate import Calibration, Target
from pytest_onnxdet.models.pipeline import settings_of_steps

NUM_DETS = 1000  # boxes that mmdet's decode_heatmap hands to suppression
MIN_CORNERS = 32  # whose pairs are NUM_DETS: with fewer mmdet fails
MAX_CORNERS = 4096  # of one kind, whose pairs take 64 MiB a map
#: The head's outputs, in the order of its forward; corners are peaks of the first two.
MAPS = ("tl_heat", "br_heat", "tl_emb", "br_emb", "tl_off", "br_off")


class Corners(NamedTuple):
    """Corners of one kind: scores, cells and classes (N, k), x and y in cells (N, k, 2)."""

    score: Tensor
    cell: Tensor
    label: Tensor
    at: Tensor


class Frame(NamedTuple):
    """Input pixels per cell, float32 (2,), and left and top border in pixels, (N, 1, 2)."""

    scale: Tensor
    border: Tensor

    def placed(self, at: Tensor) -> Tensor:
        """Points in cells as pixels of the image, clipped at 0: (N, k, 2)."""
        return (at * self.scale - self.border).clamp(min=0)


class CornerDetector(DeployModel):
    """mmdet's ``CornerHead`` with associative embeddings, over an hourglass network."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        return self._heads(input)

    def _heads(self, input: Tensor) -> dict[str, Tensor]:
        """The maps of the last level by name, as MAPS; the other levels only serve training."""
        head = self.detector.bbox_head
        level = features(self.detector, input)[-1]
        top_left = self._pooled(head.tl_pool[-1], level)
        bottom_right = self._pooled(head.br_pool[-1], level)
        return {
            "tl_heat": head.tl_heat[-1](top_left),
            "br_heat": head.br_heat[-1](bottom_right),
            **self._grouping(top_left, bottom_right),
            "tl_off": head.tl_off[-1](top_left),
            "br_off": head.br_off[-1](bottom_right),
        }

    def _grouping(self, top_left: Tensor, bottom_right: Tensor) -> dict[str, Tensor]:
        """The maps that say which corners belong together, of pooled features (N, C, H, W)."""
        head = self.detector.bbox_head
        return {"tl_emb": head.tl_emb[-1](top_left), "br_emb": head.br_emb[-1](bottom_right)}

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
        cfg = self.detector.bbox_head.test_cfg
        nms = gaussian_nms(cfg)
        maps = self._heads(input)
        k, kernel = cfg.corner_topk, cfg.local_maximum_kernel
        self.lowering.bounded(k, "corner_topk")
        frame = Frame(cell_size(input, maps["tl_heat"]), self._border(image_shape)[:, None])
        tl, br = (
            corners_of(maps[f"{name}_heat"], maps[f"{name}_off"], k, kernel)
            for name in ("tl", "br")
        )
        tl_at, br_at = frame.placed(tl.at), frame.placed(br.at)
        pair = (
            (tl.label[:, :, None] == br.label[:, None])
            & (br_at[:, None, :, 0] > tl_at[:, :, None, 0])
            & (br_at[:, None, :, 1] > tl_at[:, :, None, 1])
            & self._together(maps, tl, br, frame)
        )
        scores = torch.where(pair, (tl.score[:, :, None] + br.score[:, None]) / 2, -1.0)
        scores, at = torch.topk(scores.flatten(1), NUM_DETS, dim=1)
        first = quotient(at, k)
        boxes = torch.cat([take_rows(tl_at, first), take_rows(br_at, at - first * k)], dim=2)
        labels = torch.gather(tl.label, 1, first)
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
            min(limit, NUM_DETS),
        )
        index = torch.gather(rank, 1, index)
        used = scores > 0
        boxes = take_rows(boxes, index) + frame.border.repeat(1, 1, 2)
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
        if mode == "logical_or" and (value + 1) & value == 0:
            canvas = quotient(image_shape, value + 1) * (value + 1) + value
            canvas = canvas + int(step.get("test_pad_add_pix", 0))
        elif mode == "size_divisor":
            canvas = quotient(image_shape + value - 1, value) * value
        else:
            raise UnsupportedPart(f"RandomCenterCropPad with test_pad_mode {(mode, value)}")
        half = quotient(canvas, 2)
        border = half - quotient(image_shape, 2)
        return border.flip(1).to(torch.float32)

    def _together(
        self, maps: Mapping[str, Tensor], tl: Corners, br: Corners, frame: Frame
    ) -> Tensor:
        """Which pairs of corners may be of one object, by what groups them: bool (N, k, k)."""
        first, last = at_cells(maps["tl_emb"], tl.cell), at_cells(maps["br_emb"], br.cell)
        distance = (first - last.transpose(1, 2)).abs()
        return ~(distance > self.detector.bbox_head.test_cfg.distance_threshold)


def corners_of(heat: Tensor, offset: Tensor, k: int, kernel: int) -> Corners:
    """The best corners of one kind, see `best_peaks`, and where exactly they are."""
    score, cell, label, at = best_peaks(heat, k, kernel)
    return Corners(score, cell, label, at + at_cells(offset, cell))


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
    """Families of a head that :class:`CornerDetector` lowers.

    Attributes:
        calibrated_classes: that the corners of a detector with random weights are of.
    """

    calibrated_classes: int = 20

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        cfg = self.head(detector).test_cfg
        suppression = "nms_cfg" if cfg and "nms_cfg" in cfg else "nms"
        keys = (suppression, "max_per_img", "corner_topk", "local_maximum_kernel")
        require_settings(cfg, TEST_CFG, (*keys, "distance_threshold"))
        fails = "CornerHead in mmdet leaves labels and boxes in different orders then, and fails"
        require_cut(cfg, TEST_CFG, "max_per_img", otherwise=fails)
        why = f"mmdet takes the best {NUM_DETS} of all their pairs, which are compared"
        require_count(cfg.corner_topk, TEST_CFG, "corner_topk", MIN_CORNERS, MAX_CORNERS, why)
        require_kernel(cfg)
        gaussian_nms(cfg)
        return self.deploy(detector, lowering, limits)

    def deploy(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        """The deploy model of a detector whose settings were looked at; see :meth:`lower`."""
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
        return cfg.max_per_img, NUM_DETS

    def grouping(self, head: Any) -> list[Target]:
        """Targets of what pairs corners: embeddings that are near each other."""
        embeddings = (head.tl_emb[-1], head.br_emb[-1])
        return [Target(layers[-1].conv, std=0.1) for layers in embeddings]

    def calibration(self, detector: nn.Module) -> Calibration:
        """Scores in two passes: first all classes' spread, then few classes for the corners.

        The residual branches of an hourglass network are made small beside what they add to. With
        branches as large as their input, 104 layers of random weights amplify a rounding to 1e-3
        of a logit.
        """
        head, backbone = self.head(detector), detector.backbone
        heats = [layers[-1].conv for layers in (head.tl_heat[-1], head.br_heat[-1])]
        # Two corners make a box where they are of one class and their embeddings are near: of
        # 80 classes, and embeddings as random as everything else, hardly any two do.
        passes = [
            [
                *(Target(layer, std=1.5, share=0.02, level=0.0) for layer in heats),
                *self.grouping(head),
            ],
        ]
        if head.num_classes > self.calibrated_classes:
            rest = {"period": head.num_classes, "phase": self.calibrated_classes, "rest": True}
            passes.append([Target(one, std=1.5, share=0.02, level=-8.0, **rest) for one in heats])
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
