"""Detectors with raw outputs written by hand, so that what ties in them is known."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pytest_onnxdet.data.batches import Batch, collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.build import build_detector, load_config
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.proof import alternatives
from pytest_onnxdet.verify.compare import compare_detections

ALLOWED = Tolerance()
NOTHING = -20.0  # a logit that no threshold lets pass


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


@dataclass
class Scene:
    """A mini detector with one image.

    Attributes:
        reference: the detector; a copy of its own test_cfg is set for each :meth:`settings`.
        batch: the image.
        raw: the network's own raw outputs.
    """

    reference: Reference
    batch: Batch
    raw: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str) -> Scene:
        spec = builtin_registry().get(model)
        dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
        reference = Reference(build_detector(spec))
        batch = collate([dataset.sample(0)])
        return cls(reference, batch, reference.raw(batch))

    @contextlib.contextmanager
    def settings(self, path: str, **values: Any) -> Iterator[None]:
        """For the duration of the block, the test_cfg of a part has these values."""
        part: Any = self.reference.detector.get_submodule(path)
        before, part.test_cfg = part.test_cfg, copy.deepcopy(part.test_cfg)
        part.test_cfg.update(values)
        try:
            yield
        finally:
            part.test_cfg = before

    def silent(self) -> dict[str, Any]:
        """Raw outputs in which nothing is detected and all boxes are their priors."""
        return {
            name: np.full_like(value, 0.0 if name.startswith("bbox") else NOTHING)
            for name, value in self.raw.items()
        }

    def detected(self, raw: Mapping[str, Any]) -> Detections:
        """What the detector makes of raw outputs."""
        return self.reference.post_process(raw, self.batch)[0]

    def suppressed(self, raw: Mapping[str, Any]) -> tuple[Detections, Any]:
        """The same, and the proposals as a backend's raw graph gives them: (1, K, 6)."""
        from mmdet.models.dense_heads import rpn_head

        original, seen = rpn_head.batched_nms, []

        def watched(boxes: Any, scores: Any, idxs: Any, cfg: Any) -> Any:
            dets, keep = original(boxes, scores, idxs, cfg)
            seen.append(torch.cat([dets, idxs[keep, None].to(dets.dtype)], dim=1))
            return dets, keep

        rpn_head.batched_nms = watched
        try:
            detected = self.detected(raw)
        finally:
            rpn_head.batched_nms = original
        limit = self.reference.family.proposal_limit(self.reference.detector)
        none = torch.zeros(0, 6)
        return detected, (seen[0][:limit] if seen else none)[None].numpy()

    def proven(
        self,
        raw: Mapping[str, Any],
        candidate: Detections,
        proposals: Any = None,
        max_per_img: int | None = 100,
    ) -> bool:
        """Whether the detector, deciding ties alike, finds just what a candidate finds."""
        assert differ(self.detected(raw), candidate), "without a difference nothing is shown"
        possible = alternatives(
            self.reference,
            self.batch,
            0,
            candidate,
            raw,
            None,
            proposals,
            ALLOWED,
            max_per_img,
        )
        return any(not differ(one, candidate) for one in possible)


def differ(ours: Detections, theirs: Detections) -> bool:
    return bool(compare_detections([ours], [theirs], ALLOWED).faults)
