"""Which cuts a detector's images reach: a cut that none reaches is compared with nothing.

A graph that keeps 60 detections where the detector keeps 100 finds the same in every image that has
fewer than 60. So the reference says, while it is recorded, in how many images each of its limits
left something out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.reference.detector import Reference, max_per_img

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.detections import Detections

#: The cuts by name, in the order in which they act.
NMS_PRE, PROPOSALS, MAX_PER_IMG = "nms_pre", "proposals", "max_per_img"


class Counting:
    """A reference that counts, as it runs, the images which reach its cuts.

    Attributes:
        reached: images by cut, of the cuts that the detector has: ``nms_pre`` where some level had
            more candidates, ``proposals`` and ``max_per_img`` where as many came out as may.

    Args:
        reference: what runs.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        detector, family = reference.detector, reference.family
        self._head = family.candidate_head(detector)
        self._limits = {
            NMS_PRE: None if self._head is None else int(self._head.test_cfg.get("nms_pre", -1)),
            PROPOSALS: family.proposal_limit(detector),
            MAX_PER_IMG: max_per_img(detector),
        }
        self.reached = {name: 0 for name, limit in self._limits.items() if (limit or 0) > 0}

    def run(self, batch: Batch) -> list[Detections]:
        """Detections of the batch's valid images."""
        detector: Any = self._reference.detector
        with contextlib.ExitStack() as watching:
            outputs: list[Any] = []
            proposals: list[Any] = []
            if NMS_PRE in self.reached:
                outputs = watching.enter_context(_noted(self._head, "forward"))
            if PROPOSALS in self.reached:
                proposals = watching.enter_context(_noted(detector.rpn_head, "simple_test_rpn"))
            results = self._reference.run(batch)
        if outputs:
            family = self._reference.family
            levels = family.candidates_of_levels(detector, outputs[-1])
            largest = [max(counts) for counts in zip(*levels, strict=True)]
            # A level is cut where it has more candidates; one of just as many loses none.
            self._count(NMS_PRE, [count - 1 for count in largest[: batch.valid]])
        if proposals:
            self._count(PROPOSALS, [len(one) for one in proposals[-1][: batch.valid]])
        self._count(MAX_PER_IMG, [len(one) for one in results])
        return results

    def raw(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """The heads' outputs of the batch, uncounted."""
        return self._reference.raw(batch)

    def _count(self, name: str, counts: list[int]) -> None:
        if name in self.reached:
            limit = self._limits[name] or 0
            self.reached[name] += sum(count >= limit for count in counts)


@contextlib.contextmanager
def _noted(module: nn.Module, method: str) -> Iterator[list[Any]]:
    """For the duration of the block, notes what a method of a module returns."""
    original, returned = getattr(module, method), []

    def note(*args: Any, **kwargs: Any) -> Any:
        value = original(*args, **kwargs)
        returned.append(value)
        return value

    setattr(module, method, note)
    try:
        yield returned
    finally:
        delattr(module, method)
