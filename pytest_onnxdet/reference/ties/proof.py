"""What PyTorch itself might have detected, where float ties leave that open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.data.batches import alone
from pytest_onnxdet.models.spec import Tolerance

#: The widest range of a score that may hang on pixels at a mask's threshold.
WIDEST = 0.01
#: The greatest share of an image's mask pixels that may hang on which of nearly equal points are
#: refined. 0.07 % are seen in the mini PointRend's worst image; a range of [0, 1] would accept any
#: mask.
OPEN = 0.01
#: By how much a logit is lowered that is to come after all others.
BEHIND = 1e4

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.families.family import Family
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.reference.ties.standing import Standing
    from pytest_onnxdet.reference.ties.suppression import Choice


def alternatives(
    reference: Reference,
    batch: Batch,
    place: int,
    candidate: Detections,
    raw: Mapping[str, NDArray[np.float32]],
    theirs: Mapping[str, NDArray[Any]] | None,
    proposals: NDArray[np.float32] | None,
    tolerance: Tolerance,
    max_per_img: int | None = None,
) -> list[Detections]:
    """What mmdet makes of its own raw outputs, choosing as the backend did.

    Args:
        reference: the detector.
        batch: with the image.
        place: the image's place in it.
        candidate: what the backend finds in it.
        raw: PyTorch's raw outputs of the batch.
        theirs: the backend's raw outputs of the batch; read where peaks can tie, else None.
        proposals: those that the backend chose, (N, K, 6), where a family has them; else None.
        tolerance: by how much what the backend kept may differ from PyTorch's candidates.
        max_per_img: where the detector cuts an image's detections; None: nowhere.

    Returns:
        What the family's ``ties`` leave open: the detections with ONNX's order of equal values;
        those with the range of scores that pixels at a mask's threshold leave open, unless one is
        wider than a hundredth; those with the backend's peaks, where rounding may make them peaks;
        either of both with the backend's choice among what ties for the last of ``max_per_img``
        places; those with the backend's choice of boxes, where suppression may choose so, with the
        range of the masks where float ties decide which points are refined, unless more than a
        hundredth of the pixels hangs on that. Scores and boxes are PyTorch's own, computed from
        PyTorch's raw outputs: nothing that the backend computes is taken over, but which of two
        values that tie comes first.
    """
    from pytest_onnxdet.reference.ties.suppression import Choice

    one = list(alone(batch))[place]
    made: list[Detections] = []
    ties = reference.family.ties
    if ties.moved:  # which was kept shows in its score alone; where it went is compared later
        tolerance = replace(tolerance, box_px=float("inf"))
    choices = []
    if ties.detections:
        choices = [Choice(candidate.boxes, candidate.scores, candidate.labels, max_per_img)]
    own = {name: value[place : place + 1] for name, value in raw.items()}
    if ties.order:
        made = [reference.post_process(raw, batch, lowest_first=True)[place]]
        made += _with_last_places(reference, own, one, candidate, tolerance)
    choice = reference.family.first_choice(reference.detector)
    if choice is not None and theirs is not None:
        name, count = choice
        made += _with_first(
            reference, own, one, candidate, tolerance, name, theirs[name][place : place + 1], count
        )
    if ties.peaks and theirs is not None:
        heats = [theirs[name][place : place + 1] for name in ties.peaks]
        made += _with_peaks(reference, own, one, heats)
        made += _with_last_places(reference, own, one, candidate, tolerance, heats)
    if ties.pixels:
        (ranged,) = reference.post_process(own, one, lowest_first=True, mask_ranges=True)
        made += [ranged] if widest(ranged) <= WIDEST else []
    if not ties.suppression:
        if ties.levels:
            made += _with_levels(reference, own, one, candidate, tolerance)
        return made
    if ties.proposals and proposals is not None:
        mine = proposals[place][proposals[place, :, 4] > 0]
        limit = reference.family.proposal_limit(reference.detector)
        choices.insert(0, Choice(mine[:, :4], mine[:, 4], mine[:, 5].astype(int), limit))
    chosen = _with_choices(reference, own, one, choices, tolerance)
    return [*made, *(one for one in chosen if open_share(one, tolerance.mask_prob) <= OPEN)]


def _with_choices(
    reference: Reference,
    raw: Mapping[str, NDArray[Any]],
    image: Batch,
    choices: Sequence[Choice],
    tolerance: Tolerance,
) -> list[Detections]:
    """The detections of one image where mmdet's suppressions keep what the backend kept.

    Of each way to choose the levels of regions at a border, where the choices hold.
    """
    from pytest_onnxdet.reference.ties.levels import MAX_TRIED, Decisions, played_back_levels
    from pytest_onnxdet.reference.ties.suppression import Unproven, played_back

    family, detector = reference.family, reference.detector
    made: list[Detections] = []
    asked: list[tuple[bool, ...]] = [()]
    for number in range(MAX_TRIED):
        if number == len(asked):
            break
        decisions = Decisions(asked[number])
        noted: list[Standing] = []
        with contextlib.ExitStack() as stack, contextlib.suppress(Unproven):
            if family.ties.levels:
                stack.enter_context(played_back_levels(detector, decisions))
            stack.enter_context(open_candidates(family, detector, noted))
            with played_back(choices, tolerance, noted):
                results = reference.post_process(raw, image, mask_ranges=family.ties.points)
            made += results  # only now it is sure that every choice was asked for, and holds
        asked += decisions.others()
    return made


def _with_first(
    reference: Reference,
    raw: Mapping[str, NDArray[Any]],
    image: Batch,
    candidate: Detections,
    tolerance: Tolerance,
    name: str,
    theirs: NDArray[np.float32],
    count: int,
) -> list[Detections]:
    """The detections of one image where the backend's best of a raw output are mmdet's.

    Args:
        reference, image, candidate, tolerance: as for :func:`alternatives`.
        raw: PyTorch's raw outputs of the image.
        name: the output, logits (1, P, 1).
        theirs: the backend's.
        count: how many are taken.
    """
    import numpy as np
    import torch

    from pytest_onnxdet.reference.ties.peaks import judge_first
    from pytest_onnxdet.reference.ties.suppression import Unproven

    scores = torch.from_numpy(raw[name]).sigmoid()
    try:
        taken = judge_first(scores, torch.from_numpy(theirs), count).numpy()
    except Unproven:
        return []
    # All others are put behind them; what mmdet makes of those that are taken is its own.
    moved = {**raw, name: np.where(taken, raw[name], raw[name] - BEHIND)}
    found = reference.post_process(moved, image, lowest_first=True)
    return [*found, *_with_last_places(reference, moved, image, candidate, tolerance)]


def _with_levels(
    reference: Reference,
    raw: Mapping[str, NDArray[Any]],
    image: Batch,
    candidate: Detections,
    tolerance: Tolerance,
) -> list[Detections]:
    """The detections of one image of each other way to choose the levels of regions at a border.

    Each with ONNX's order of equals, and with the backend's choice of the last places' ties.
    """
    from pytest_onnxdet.reference.ties.levels import MAX_TRIED, Decisions, played_back_levels

    made: list[Detections] = []
    asked: list[tuple[bool, ...]] = [()]
    for number in range(MAX_TRIED):
        if number == len(asked):
            break
        decisions = Decisions(asked[number])
        with played_back_levels(reference.detector, decisions):
            found = reference.post_process(raw, image, lowest_first=True)
        if number:  # the first way is mmdet's own, which is there already
            made += found
            with played_back_levels(reference.detector, Decisions(asked[number])):
                made += _with_last_places(reference, raw, image, candidate, tolerance)
        asked += decisions.others()
    return made


@contextlib.contextmanager
def open_candidates(family: Family, detector: nn.Module, noted: list[Standing]) -> Iterator[None]:
    """For the duration of the block, mmdet suppresses all boxes that may be candidates.

    Args:
        family: the detector's.
        detector: the detector.
        noted: where it is noted, before each suppression, how its boxes stand.
    """
    from pytest_onnxdet.families.proposals import proposal_network
    from pytest_onnxdet.reference.ties.cuts import open_levels, open_regions
    from pytest_onnxdet.reference.ties.thresholds import open_products, open_scores

    model: Any = detector
    with contextlib.ExitStack() as stack:
        if family.ties.proposals and proposal_network(model.rpn_head).opened:
            stack.enter_context(open_regions(model.rpn_head, noted))
        stack.enter_context(open_levels(noted))
        head = family.head(detector)
        stack.enter_context(open_scores(noted, head, family.ties.confidence))
        if family.ties.products:
            stack.enter_context(open_products(noted, head))
        yield


def _with_peaks(
    reference: Reference,
    raw: Mapping[str, NDArray[Any]],
    image: Batch,
    heats: Sequence[NDArray[np.float32]],
) -> list[Detections]:
    """The detections of one image where the backend's peaks are mmdet's."""
    import torch

    from pytest_onnxdet.reference.ties.peaks import played_back_peaks
    from pytest_onnxdet.reference.ties.suppression import Unproven

    try:
        with played_back_peaks([torch.from_numpy(heat) for heat in heats]):
            return reference.post_process(raw, image, lowest_first=True)
    except Unproven:
        return []


def _with_last_places(
    reference: Reference,
    raw: Mapping[str, NDArray[Any]],
    image: Batch,
    candidate: Detections,
    tolerance: Tolerance,
    heats: Sequence[NDArray[np.float32]] | None = None,
) -> list[Detections]:
    """The detections of one image with the backend's choice among what ties for the last places.

    With the backend's peaks, too, where ``heats`` are given.
    """
    import torch

    from pytest_onnxdet.reference.ties.cuts import open_last, with_last_places
    from pytest_onnxdet.reference.ties.peaks import played_back_peaks
    from pytest_onnxdet.reference.ties.suppression import Unproven

    family, detector = reference.family, reference.detector
    limit, count = family.final_cut(detector) or (0, 0)
    if not 0 < limit < count:
        return []
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(open_last(family.head(detector), count))
            if heats is not None:
                tensors = [torch.from_numpy(heat) for heat in heats]
                stack.enter_context(played_back_peaks(tensors))
            (every,) = reference.post_process(raw, image, lowest_first=True)
        return [with_last_places(every, candidate, limit, tolerance)]
    except Unproven:
        return []


def widest(detections: Detections) -> float:
    """The widest of the detections' score ranges; 0 where they have none."""
    if detections.score_range is None or not len(detections):
        return 0.0
    low, high = detections.score_range.T
    return float((high - low).max())


def open_share(detections: Detections, allowed: float) -> float:
    """The share of mask pixels that float ties leave open, in the detections' own mask grids.

    Args:
        detections: with ``mask_range``, or 0 is returned.
        allowed: a range up to this width is not open.
    """
    if detections.mask_range is None or not detections.mask_range.size:
        return 0.0
    wide: float = (detections.mask_range[:, 1] - detections.mask_range[:, 0] > allowed).mean()
    return float(wide)
