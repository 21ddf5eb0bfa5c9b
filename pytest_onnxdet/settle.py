"""What PyTorch itself might have found, where float ties leave that open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.cases import Case
from pytest_onnxdet.data.batches import alone
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.workbench import split_raw

#: The most of an image's mask pixels that may hang on which of nearly equal points are refined.
#: 0.07 % are seen in the mini PointRend's worst image; a range of [0, 1] would accept any mask.
OPEN = 0.01

CORNERS = ("tl_heat", "br_heat")

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytest_onnxdet.backends.pytorch import Reference
    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.workbench import Workbench


def settle(
    bench: Workbench,
    case: Case,
    tolerance: Tolerance,
    index: int,
    found: Detections,
    singly: bool = False,
) -> list[Detections]:
    """What mmdet makes of its own raw outputs, choosing as the backend did; see ``check_parity``.

    Args:
        bench: where the case is at work.
        case: the case.
        tolerance: by how much what the backend kept may differ from PyTorch's candidates.
        index: the image's place in the data set.
        found: what the backend finds in it.
        singly: whether the image is run alone, padded as in its batch.

    Returns:
        Of single-stage models the detections with ONNX's order of equal values, of CornerNet also
        with the backend's peaks, where rounding may make them peaks. Of all models
        those with the backend's choice of boxes, where suppression may choose so; of PointRend
        with the range of the masks where float ties decide which points are refined, unless more
        than a hundredth of the pixels hangs on that. Scores and boxes are PyTorch's own, computed
        from PyTorch's raw outputs: nothing that the backend computes is taken over, but which of
        two values that tie comes first.
    """
    from pytest_onnxdet.backends.choices import Choice, Unproven, played_back

    reference = bench.reference(case.spec)
    number, place = divmod(index, case.batch)
    batch, runs = bench.batches(case)[number], case
    one = list(alone(batch))[place]
    if singly:
        batch, place, runs = one, 0, replace(case, batch=1)
    raw = reference.raw(batch)
    made: list[Detections] = []
    detector: Any = reference.detector
    choices = [Choice(found.boxes, found.scores, found.labels, bench.max_per_img(case.spec))]
    own = {name: value[place : place + 1] for name, value in raw.items()}
    if not reference.two_stage:
        made = [reference.post_process(raw, batch, lowest_first=True)[place]]
    if reference.two_stage or CORNERS[0] in raw:
        theirs, proposals = split_raw(bench.session(runs, postprocess=False).run(batch))
        if proposals is None:
            heats = [theirs[name][place : place + 1] for name in CORNERS]
            made += _with_peaks(reference, own, one, heats)
        else:
            mine = proposals[place][proposals[place, :, 4] > 0]
            limit = detector.rpn_head.test_cfg.max_per_img
            choices.insert(0, Choice(mine[:, :4], mine[:, 4], mine[:, 5].astype(int), limit))
    try:
        with played_back(choices, tolerance):
            chosen = reference.post_process(own, one, mask_ranges=reference.two_stage)
    except Unproven:
        return made
    return [*made, *(one for one in chosen if open_share(one, tolerance.mask_prob) <= OPEN)]


def _with_peaks(
    reference: Reference,
    raw: Mapping[str, NDArray[Any]],
    image: Batch,
    heats: Sequence[NDArray[np.float32]],
) -> list[Detections]:
    """Of CornerNet: the detections of one image where the backend's peaks are the corners."""
    import torch

    from pytest_onnxdet.backends.choices import Unproven
    from pytest_onnxdet.backends.peak_choices import played_back_peaks

    try:
        with played_back_peaks([torch.from_numpy(heat) for heat in heats]):
            return reference.post_process(raw, image, lowest_first=True)
    except Unproven:
        return []


def open_share(found: Detections, allowed: float) -> float:
    """The share of mask pixels that float ties leave open, in the detections' own mask grids.

    Args:
        found: with ``mask_range``, or 0 is returned.
        allowed: a range up to this width is not open.
    """
    if found.mask_range is None or not found.mask_range.size:
        return 0.0
    wide: float = (found.mask_range[:, 1] - found.mask_range[:, 0] > allowed).mean()
    return float(wide)
