"""What the project knows of one kind of detector, as one object. Imports nothing heavy.

A family says which detectors it takes and how they are lowered, and what else follows from how a
head decides: its raw outputs, mmdet's post-processing of them, which caps act, the least opset, how
random weights are made to detect something, and what float ties leave open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_onnxdet.families.classes import (
    Kind,
    NotCalibratedError,
    UnsupportedPart,
    at_path,
    nearest,
    objection,
    refuse_operators,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from pytest_onnxdet.data.image_maps import ImageMaps
    from pytest_onnxdet.families.base import DeployModel, Limits
    from pytest_onnxdet.families.ops.lowering import Lowering
    from pytest_onnxdet.models.calibrate import Calibration

#: What of a dense head of mmdet's comes after its ``forward`` when it detects.
DECODING_METHODS = (
    "simple_test",
    "simple_test_bboxes",
    "get_bboxes",
    "_get_bboxes_single",
    "_bbox_post_process",
)
#: The same and ``forward``, for lowerings that do not run the head's own.
HEAD_METHODS = ("forward", "forward_single", *DECODING_METHODS)
#: What inference uses of a detector.
DETECTOR_METHODS = ("forward", "forward_test", "simple_test", "extract_feat")


@dataclass(frozen=True)
class Part:
    """A part of a detector beside its head whose inference the lowering repeats.

    Attributes:
        path: where it is, ``"roi_head.mask_head"``; of a list of modules each is meant.
        classes: which classes are taken, with those subclasses that override no method.
        methods: the methods that count.
        optional: whether the detector may be without it.
    """

    path: str
    classes: tuple[Kind, ...]
    methods: tuple[str, ...] = ("forward",)
    optional: bool = False


@dataclass(frozen=True)
class Ties:
    """What float ties leave open in a family's post-processing.

    Attributes:
        order: which of equal values top-k takes: PyTorch leaves it open, ONNX does not.
        suppression: which of overlapping boxes mmcv's plain ``batched_nms`` keeps, and which are
            its candidates: scores at ``score_thr``, the last of a level's ``nms_pre``.
        confidence: the key in the head's ``test_cfg`` of another threshold, of confidences that
            mmdet multiplies into scores.
        products: whether the head's own ``_bboxes_nms`` thresholds products of scores.
        proposals: whether suppression chooses proposals first, which later layers work on; of the
            proposal network ``nms_pre`` and ``min_bbox_size`` count, too.
        detections: whether suppression chooses the detections, too, in the end.
        levels: whether regions take their features of a pyramid level that their size decides.
        peaks: raw outputs, as logits, in which neighbours may both be peaks, and of which either of
            two that tie may be among the best; in the order in which mmdet looks at them.
        moved: whether boxes are moved after suppression: what was kept is known by its score.
        points: whether masks are refined at the points that are least certain.
        pixels: whether scores hang on which pixels of a mask are above its threshold.
        images: the greatest share of a random detector's images in which something ties.
    """

    order: bool = False
    suppression: bool = True
    confidence: str | None = None
    products: bool = False
    proposals: bool = False
    detections: bool = True
    levels: bool = False
    moved: bool = False
    peaks: tuple[str, ...] = ()
    points: bool = False
    pixels: bool = False
    images: float = 0.0


class MaskCandidates(NamedTuple):
    """Masks before matrix NMS, and its settings.

    Attributes:
        maps: float32 (M, h, w).
        scores: float32 (M,), of their classes alone.
        labels: int64 (M,).
        threshold: a pixel belongs to a mask above it.
        kernel, sigma: of the decay.
        nms_pre: so many are looked at; not positive: all.
    """

    maps: Tensor
    scores: Tensor
    labels: Tensor
    threshold: float
    kernel: str
    sigma: float
    nms_pre: int


class MapNote(NamedTuple):
    """The maps that became an image's masks, in the order in which mmdet lists them.

    Attributes:
        labels: int64 (K,).
        maps: float32 (K, h, w).
        candidates: what matrix NMS chose them of; None: scores do not hang on masks.
    """

    labels: Tensor
    maps: Tensor
    candidates: MaskCandidates | None = None


class Need(NamedTuple):
    """The least opset, and what needs it."""

    opset: int
    reason: str


@dataclass(frozen=True, eq=False)
class Family(ABC):
    """One kind of detector. Subclass it, or :func:`dataclasses.replace` fields of a built-in one.

    What has a default is what mmdet's dense heads do.

    Attributes:
        name: unique in a registry.
        heads: the classes of head that decide how the detector decodes, or where they lie, as
            ``"mmdet.models.RetinaHead"``. A subclass is taken where it overrides none of
            ``head_methods``.
        head_path: where the head is in the detector.
        head_methods: the head's methods that inference uses and the lowering repeats.
        detectors: the detectors' classes, likewise with ``detector_methods``.
        detector_methods: the detector's methods that inference uses.
        parts: other parts that the lowering repeats.
        ties: what float ties leave open.
        operators: layers with an operator of mmcv's that this family alone has a lowering for.
        clips: whether boxes are clipped where the head's box coder says so.
        uncapped: why the caps that only graphs know do nothing here; None: they act.
        ignored: keys of test_cfg that PyTorch does not read here, each with what to do instead.
    """

    name: str
    heads: tuple[Kind, ...]
    head_path: str = "bbox_head"
    head_methods: tuple[str, ...] = HEAD_METHODS
    detectors: tuple[Kind, ...] = ("mmdet.models.detectors.SingleStageDetector",)
    detector_methods: tuple[str, ...] = DETECTOR_METHODS
    parts: tuple[Part, ...] = ()
    ties: Ties = Ties()
    operators: tuple[Kind, ...] = ()
    clips: bool = True
    uncapped: str | None = None
    ignored: Mapping[str, str] = field(default_factory=dict)

    def head(self, detector: nn.Module) -> Any:
        """The detector's head; None where it has none."""
        return next((module for _, module in at_path(detector, self.head_path)), None)

    def registered(self, detector: nn.Module) -> type | None:
        """The class of ``heads`` that the detector's head is of, or None."""
        return nearest(type(self.head(detector)), self.heads)

    def check(self, detector: nn.Module) -> None:
        """Refuses a detector that has a part whose inference is not what the lowering repeats.

        Raises:
            UnsupportedPart: the message names the part, and the method where a class overrides one.
        """
        label = f"{type(detector).__name__} with {type(self.head(detector)).__name__}"
        for path, classes, methods, optional in (
            ("", self.detectors, self.detector_methods, False),
            (self.head_path, self.heads, self.head_methods, False),
            *((part.path, part.classes, part.methods, part.optional) for part in self.parts),
        ):
            modules = list(at_path(detector, path))
            if not modules and not optional:
                raise UnsupportedPart(f"{label} has no lowering: it has no {path}")
            for place, module in modules:
                why = objection(module, classes, methods)
                if why is not None:
                    what = f"{place} is {type(module).__name__}: " if place else ""
                    raise UnsupportedPart(f"{label} has no lowering: {what}{why}")
        refuse_operators(detector, self.operators)

    @abstractmethod
    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        """The deploy model of a detector that :meth:`check` let pass; it is shared, not changed.

        Args:
            detector: in eval mode.
            lowering: top-k, suppression and pooling in one runtime's operators.
            limits: caps; without any the results are PyTorch's exactly.

        Raises:
            UnsupportedPart: a setting or a part has no lowering.
        """

    def image_maps(self, detector: nn.Module) -> ImageMaps | None:
        """How ``masks`` are meant where they are maps of the image; None: they are of regions."""
        return None

    def noted_maps(self, detector: nn.Module) -> AbstractContextManager[list[MapNote]]:
        """Notes, while the detector runs, what masks it makes of which maps.

        Args:
            detector: in eval mode, of a family with :meth:`image_maps`.

        Returns:
            A list that gets an entry for each image in which something is detected, in order.
        """
        raise NotImplementedError(f"family {self.name!r} has image_maps: note them")

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The head's outputs before any decoding, by the names that the raw graph gives them.

        Args:
            detector: in eval mode.
            images: float32 (N, C, H, W).
            metas: mmdet's img_metas, each with ``batch_input_shape``.
        """
        from pytest_onnxdet.families.base import named_levels

        model: Any = detector
        return named_levels(self.head(detector)(model.extract_feat(images)))

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        """mmdet's own post-processing of what :meth:`raw_reference` gives, whoever computed it.

        Args:
            detector: in eval mode.
            raw: by name, of the same images.
            images: float32 (N, C, H, W), for families in which layers follow after a choice.
            metas: mmdet's img_metas; it may write into them.

        Returns:
            What the detector gives, image by image, at the original images' sizes.
        """
        from mmdet.core import bbox2result

        head = self.head(detector)
        outputs = self.head_outputs(raw)
        results = head.get_bboxes(*outputs, img_metas=list(metas), rescale=True)
        return [bbox2result(boxes, labels, head.num_classes) for boxes, labels in results]

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        """Raw outputs in the form in which the head's ``forward`` gives them: kind, level."""
        kinds = dict.fromkeys(name.rpartition("_")[0] for name in raw)
        return [
            [value for name, value in raw.items() if name.rpartition("_")[0] == kind]
            for kind in kinds
        ]

    def proposal_limit(self, detector: nn.Module) -> int | None:
        """Where proposals are cut, in families whose ``ties.proposals`` is set."""
        return None

    def first_choice(self, detector: nn.Module) -> tuple[str, int] | None:
        """What later layers work on, in families that take it without a suppression.

        Returns:
            The raw output whose best are taken, logits (N, P, 1), and how many of an image are;
            :meth:`post_process` takes them by that output. None: nothing is.
        """
        return None

    def final_cut(self, detector: nn.Module) -> tuple[int, int] | None:
        """Where an image's detections are cut by their scores, in families without a suppression.

        Returns:
            How many are kept, and how many there may be before; None: they are not cut.
        """
        return None

    def candidate_head(self, detector: nn.Module) -> Any:
        """The head whose candidates ``nms_pre`` cuts level by level; None where nothing is cut."""
        return None

    def candidates_of_levels(self, detector: nn.Module, outputs: Any) -> list[list[int]]:
        """How many candidates the levels have where ``nms_pre`` acts.

        Args:
            detector: one that has a :meth:`candidate_head`.
            outputs: what that head's ``forward`` gave for a batch.

        Returns:
            For each level the images' counts.
        """
        raise NotImplementedError(f"family {self.name!r} has a candidate_head: count for it")

    def min_opset(self, detector: nn.Module, lowering: str) -> Need:
        """What the detector's layers need, known before it is traced; 11 where nothing does.

        Args:
            detector: one that is taken.
            lowering: its name. What another than ``onnxruntime`` needs shows in tracing.
        """
        return Need(11, "")

    def calibration(self, detector: nn.Module) -> Calibration:
        """What to set so that random weights detect something.

        Raises:
            NotCalibratedError: nobody said; such detectors are verified with weights.
        """
        raise NotCalibratedError(
            f"{type(detector).__name__}: family {self.name!r} does not say how random weights are "
            "calibrated: override `calibration`, or verify it with a checkpoint"
        )
