"""From what a backend gives to detections, after a look at the values as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.data.batches import alone
from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.data.image_maps import image_maps
from pytest_onnxdet.data.masks import mask_threshold
from pytest_onnxdet.families.registry import clips_boxes
from pytest_onnxdet.reference.recording import PROBABILITY_IMAGES
from pytest_onnxdet.verify.values import check_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.data.batches import Batch, Batches
    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.run.by_image import ByInput
    from pytest_onnxdet.run.cases import Case


#: What a batch's images are found to hold, at the original images' sizes.
Reads = Callable[["Batch"], list[Detections]]


def read_outputs(
    case: Case, session: Session, detector: Any, clips: bool, batch: Batch
) -> list[Detections]:
    """Runs one batch: its detections at the original images' sizes.

    Args:
        case: whose backend this is.
        session: the case's graph.
        detector: the case's, which knows what its masks have to be like.
        clips: whether its boxes lie inside the images.
        batch: the images.

    Raises:
        CheckFailed: a value departs from the graph's contract.
    """
    spec = case.spec
    outputs, maps = session.run(batch), image_maps(session.artifact.info)
    check_values(
        outputs,
        batch,
        classes=len(spec.classes) or None,
        clips=clips,
        slack=spec.tolerance(case.backend.name, case.precision, session.device).box_px,
        logits=maps is not None and maps.logits,
        case_id=case.id,
    )
    return from_outputs(outputs, batch, mask_threshold(detector.cfg.model), maps)


def reader(case: Case, session: Session, detector: Any, families: FamilyRegistry) -> Reads:
    """:func:`read_outputs` of batches of a case, with what is known of its detector.

    Args:
        case, session, detector: as for :func:`read_outputs`.
        families: where the detector's is looked up, which says whether boxes are clipped.
    """
    return partial(read_outputs, case, session, detector, clips_boxes(detector, families))


def read_alone(reads: Reads, batches: Batches, known: ByInput[Detections]) -> Iterator[Detections]:
    """Runs the images of batches one by one, each padded as in its batch.

    Args:
        reads: :func:`read_outputs` of a batch.
        batches: the images.
        known: what the session gave before; is added to.

    Raises:
        CheckFailed: a value departs from the graph's contract.
    """
    few = batches.images <= PROBABILITY_IMAGES

    def run(image: Batch) -> Detections:
        return reads(image)[0].packed(few)

    for batch in batches:
        for image in alone(batch):
            yield known.get(image, run)
