"""What PyTorch itself might have found, where float ties leave that open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_onnxdet.cases import Case
from pytest_onnxdet.data.batches import alone
from pytest_onnxdet.verify.raw import compare_raw

if TYPE_CHECKING:
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.workbench import Workbench


def settle(bench: Workbench, case: Case, index: int, singly: bool = False) -> list[Detections]:
    """What mmdet makes of the backend's raw outputs for one image; see ``check_parity``.

    Args:
        bench: where the case is at work.
        case: the case.
        index: the image's place in the data set.
        singly: whether the image is run alone, padded as in its batch.

    Returns:
        The detections with PyTorch's own order of equal values and with ONNX's; of PointRend
        PyTorch's detections, with the range of their masks where float ties decide which points are
        refined. Nothing for other two-stage models, and where the raw outputs differ from PyTorch's
        by more than the allowance.
    """
    tolerance = case.spec.tolerance(case.backend.name)
    reference = bench.reference(case.spec)
    if not reference.settles:
        return []
    number, place = divmod(index, case.batch)
    batch, runs = bench.batches(case)[number], case
    if singly:
        batch, place, runs = list(alone(batch))[place], 0, replace(case, batch=1)
    raw = bench.session(runs, postprocess=False).run(batch)
    agreed = compare_raw(reference.raw(batch), raw, tolerance.raw_rtol, tolerance.raw_atol)
    if not agreed.ok:
        return []
    made = [reference.post_process(raw, batch, order) for order in (False, True)]
    if made[0] is None:
        # The image alone, at its batch's size: bounds are costly, and one's are asked for.
        return reference.run(list(alone(batch))[place], mask_ranges=True)
    return [found[place] for found in made if found is not None]
