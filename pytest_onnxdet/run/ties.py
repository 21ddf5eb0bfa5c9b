"""What PyTorch itself might have found in a case's images, where float ties leave that open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_onnxdet.models.structure import is_structure

if TYPE_CHECKING:
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.models.spec import ModelSpec, Tolerance
    from pytest_onnxdet.run.bench import Workbench
    from pytest_onnxdet.run.cases import Case


def most_tied(bench: Workbench, spec: ModelSpec) -> float:
    """The greatest share of a model's images in which parity may rest on a proof.

    The spec says so; of random weights, which nobody measured, the family, too.
    """
    if not is_structure(spec):
        return spec.tied_images
    return max(spec.tied_images, bench.reference(spec).family.ties.images)


def alternatives(
    bench: Workbench,
    case: Case,
    tolerance: Tolerance,
    index: int,
    candidate: Detections,
    singly: bool = False,
) -> list[Detections]:
    """The detections of :func:`pytest_onnxdet.reference.ties.proof.alternatives` for one image.

    Args:
        bench: where the case is at work.
        case: the case.
        tolerance: by how much what the backend kept may differ from PyTorch's candidates.
        index: the image's place in the data set.
        candidate: what the backend finds in it.
        singly: whether the image is run alone, padded as in its batch.
    """
    from pytest_onnxdet.data.batches import alone
    from pytest_onnxdet.families.base import split_raw
    from pytest_onnxdet.reference.ties import proof

    reference = bench.reference(case.spec)
    number, place = divmod(index, case.batch)
    batch, runs = bench.batches(case)[number], case
    if singly:
        batch, place, runs = list(alone(batch))[place], 0, replace(case, batch=1)
    raw = reference.raw(batch)
    theirs = proposals = None
    if reference.family.ties.proposals or reference.family.ties.peaks:
        theirs, proposals = split_raw(bench.session(runs, postprocess=False).run(batch))
    return proof.alternatives(
        reference,
        batch,
        place,
        candidate,
        raw,
        theirs,
        proposals,
        tolerance,
        bench.max_per_img(case.spec),
    )
