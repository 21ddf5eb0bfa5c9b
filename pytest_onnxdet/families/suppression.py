"""What a config asks of suppression, as data. Imports nothing heavy.

Two things beside the kind decide what is left:

- mmcv takes another path for ``split_thr`` boxes and more. It goes class by class there, also
  where it was to look at all classes together; so does the graph, by each image's number of boxes.
  (Soft-NMS keeps its first box whatever its score, there of each class. That shows for boxes below
  ``min_score`` alone, and is not repeated.)
- Some heads cut an image's boxes where ``max_per_img`` is positive, others slice with it, so that
  -1 leaves out the last box and 0 all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

#: From so many boxes of an image on mmcv suppresses class by class.
SPLIT = 10_000
#: What soft-NMS does to a score, by the name that mmcv has for it.
METHODS = ("naive", "linear", "gaussian")


@dataclass(frozen=True)
class Suppression:
    """A config's ``nms``, read.

    Attributes:
        iou_threshold: overlap above which the lower-scored box is dropped, or decays.
        soft: soft-NMS's method; None: boxes are dropped.
        sigma: of the Gaussian method.
        min_score: soft-NMS drops what decays below it.
        class_agnostic: whether boxes of all classes suppress each other.
        split_thr: the number of boxes from which on mmcv goes class by class all the same.
        score_threshold: only boxes above it take part; 0: all.
        max_num: how many of an image are left, before ``max_per_img``; not positive: all.
        offset: pixels by which a side is longer than its corners' difference, 0 or 1.
        sliced: whether the head slices with ``max_per_img`` where it is not positive.
    """

    iou_threshold: float
    soft: str | None = None
    sigma: float = 0.5
    min_score: float = 1e-3
    class_agnostic: bool = False
    split_thr: int = SPLIT
    score_threshold: float = 0.0
    max_num: int = -1
    offset: int = 0
    sliced: bool = False

    def limit(self, max_per_img: int) -> int:
        """How many boxes of an image are ranked; not positive: all."""
        limits = [count for count in (self.max_num, max_per_img) if count > 0]
        return min(limits, default=-1)
