"""What PyTorch itself might have found, where float ties leave that open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.cases import Case
from pytest_onnxdet.data.batches import alone
from pytest_onnxdet.verify.raw import compare_raw
from pytest_onnxdet.workbench import split_raw

if TYPE_CHECKING:
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.workbench import Workbench


def settle(
    bench: Workbench, case: Case, index: int, found: Detections, singly: bool = False
) -> list[Detections]:
    """What mmdet makes of the backend's raw outputs for one image; see ``check_parity``.

    Args:
        bench: where the case is at work.
        case: the case.
        index: the image's place in the data set.
        found: what the backend finds in it.
        singly: whether the image is run alone, padded as in its batch.

    Returns:
        The detections with PyTorch's own order of equal values and with ONNX's, of single-stage
        models; those with the backend's choice of boxes, where suppression may choose so; of
        PointRend with the range of the masks where float ties decide which points are refined.
        Nothing where the raw outputs differ from PyTorch's by more than the allowance.
    """
    from pytest_onnxdet.backends.choices import Choice, Unproven, played_back

    tolerance = case.spec.tolerance(case.backend.name)
    reference = bench.reference(case.spec)
    number, place = divmod(index, case.batch)
    batch, runs = bench.batches(case)[number], case
    one = list(alone(batch))[place]
    if singly:
        batch, place, runs = one, 0, replace(case, batch=1)
    raw, proposals = split_raw(bench.session(runs, postprocess=False).run(batch))
    agreed = compare_raw(reference.raw(batch), raw, tolerance.raw_rtol, tolerance.raw_atol)
    if not agreed.ok:
        return []
    made: list[Detections] = []
    detector: Any = reference.detector
    choices = [Choice(found.boxes, found.scores, found.labels, bench.max_per_img(case.spec))]
    if proposals is None:
        both = [reference.post_process(raw, batch, order) for order in (False, True)]
        made = [of_batch[place] for of_batch in both]
    else:
        mine = proposals[place][proposals[place, :, 4] > 0]
        limit = detector.rpn_head.test_cfg.max_per_img
        choices.insert(0, Choice(mine[:, :4], mine[:, 4], mine[:, 5].astype(int), limit))
    own = {name: value[place : place + 1] for name, value in raw.items()}
    try:
        with played_back(choices, tolerance):
            chosen = reference.post_process(own, one, mask_ranges=reference.two_stage)
    except Unproven:
        return made
    return [*made, *chosen]
