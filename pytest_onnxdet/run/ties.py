"""What PyTorch itself might have detected in an image, where float ties leave that open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_onnxdet.models.structure import is_structure

if TYPE_CHECKING:
    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.models.spec import ModelSpec, Tolerance
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.run.bench import Workbench
    from pytest_onnxdet.run.cases import Case
    from pytest_onnxdet.verify.localize import Runs


def max_tied(bench: Workbench, spec: ModelSpec) -> float:
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
    raw_session: Callable[[], Runs] | None = None,
) -> Iterator[Detections]:
    """What PyTorch might have detected in one image of a case; see :func:`of_image`.

    First come the alternatives that were proven for other candidates, of a case of another batch
    size or backend, in the same image; only when these are not what is looked for, new ones.

    Args:
        bench: where the case is at work.
        case: the case.
        tolerance: by how much the backend's boxes may differ from PyTorch's.
        index: the image's place in the data set.
        candidate: what the backend finds in it.
        singly: whether the image is run alone, padded as in its batch.
        raw_session: gives what computed the candidate's raw outputs; None: the backend did.
    """
    from pytest_onnxdet.data.batches import alone

    number, place = divmod(index, case.batch)
    batch, runs = bench.batches(case)[number], case
    image = list(alone(batch))[place]
    if singly:
        batch, place, runs = image, 0, replace(case, batch=1)
    proven = bench.known(case.spec).proven
    yield from proven.of(image, tolerance)
    made = of_image(
        bench.reference(case.spec),
        batch,
        place,
        candidate,
        raw_session or (lambda: bench.session(runs, postprocess=False)),
        tolerance,
        bench.max_per_img(case.spec),
    )
    proven.add(image, tolerance, made)
    yield from made


def of_image(
    reference: Reference,
    batch: Batch,
    place: int,
    candidate: Detections,
    raw_session: Callable[[], Runs],
    tolerance: Tolerance,
    max_per_img: int | None,
) -> list[Detections]:
    """The detections of :func:`pytest_onnxdet.reference.ties.proof.alternatives` for one image.

    Args:
        reference: the detector.
        batch: with the image, as it was run.
        place: the image's place in it.
        candidate: what the backend finds in it.
        raw_session: gives the backend's session of the raw outputs; asked only for models whose
            later layers, or whose corners, hang on what the backend chose of them.
        tolerance: by how much the backend's boxes may differ from PyTorch's.
        max_per_img: where the detector cuts an image's detections; None: nowhere.
    """
    from pytest_onnxdet.families.base import split_raw
    from pytest_onnxdet.reference.ties import proof

    raw = reference.raw(batch)
    backend_raw = proposals = None
    family = reference.family
    chosen = family.ties.proposals or family.first_choice(reference.detector) is not None
    if chosen or family.ties.peaks:
        backend_raw, proposals = split_raw(raw_session().run(batch))
    return proof.alternatives(
        reference, batch, place, candidate, raw, backend_raw, proposals, tolerance, max_per_img
    )
