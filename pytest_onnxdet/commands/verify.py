"""``--verify``: the exported file on plain ONNX Runtime against the detector in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_onnxdet.commands.common import tell
from pytest_onnxdet.commands.images import SAMPLE, SECOND, batch_of
from pytest_onnxdet.commands.results import detections
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.models.spec import Tolerance

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.export.exporter import ExportOptions

LARGEST = 1344  # the stock tool's limit for the other size that a dynamic graph is tried at
MULTIPLE = 32


class Trial(NamedTuple):
    """One comparison: what is run, and how it is called."""

    title: str
    batch: Batch
    images: tuple[Path, ...]


def other_size(size: tuple[int, int]) -> tuple[int, int]:
    """Half as large again, in multiples of 32 and up to 1344, as the stock tool chooses.

    A size that is at the limit already is tried smaller.
    """
    height, width = (min(LARGEST, int(n * 1.5) // MULTIPLE * MULTIPLE) for n in size)
    if (height, width) == size:
        height, width = (max(MULTIPLE, n * 3 // 4 // MULTIPLE * MULTIPLE) for n in size)
    return height, width


def trials(detector: nn.Module, options: ExportOptions, image: Path) -> Iterator[Trial]:
    """What a graph is tried on.

    A static graph: its own shape; several images where its batch has them. A dynamic graph: the
    shape it was exported at, another one, and a batch of different images, one of them padded.
    Graphs of a single input take padding for image, so for them nothing is padded.
    """
    cfg: Any = detector.cfg
    second = SECOND if image.resolve() != SECOND.resolve() else SAMPLE
    own_size = options.mask_output == "image"

    def trial(count: int, size: tuple[int, int]) -> Trial:
        paths = tuple((image, second)[i % 2] for i in range(count))
        fill = [i % 2 == 0 or options.single_input for i in range(count)]
        batch = batch_of(cfg, paths, size, fill=fill, own_size=own_size)
        several = f", batch {count} of different images" if count > 1 else ""
        return Trial(f"{size[0]} x {size[1]}{several}", batch, paths)

    if options.shape == "static":
        yield trial(options.batch, options.size)
        return
    yield trial(1, options.size)
    yield trial(1, other_size(options.size))
    yield trial(max(2, options.batch), options.size)


def verify(
    detector: nn.Module,
    session: Session,
    options: ExportOptions,
    image: Path,
    tolerance: Tolerance,
) -> bool:
    """Compare, print what was found, and say whether every difference is within the tolerance.

    A comparison that compared nothing at all is no success.
    """
    import onnx

    onnx.checker.check_model(onnx.load(str(session.artifact.path)), full_check=True)
    if not options.postprocess:
        return _verify_raw(detector, session, options, image, tolerance)
    from pytest_onnxdet.backends.pytorch import Reference
    from pytest_onnxdet.verify.parity import compare_detections

    reference = Reference(detector)
    matched, good = 0, True
    for one in trials(detector, options, image):
        result = compare_detections(
            reference.run(one.batch),
            detections(session.run(one.batch), one.batch),
            tolerance,
            classes=tuple(getattr(detector, "CLASSES", ())),
            images=[path.name for path in one.images],
            max_per_img=_max_per_img(detector),
        )
        matched += result.matched
        if result.faults:
            good = False
            tell(f"verify {one.title}: DIFFERENT: {result.format()}")
        else:
            worst = ", ".join(
                f"{words} {result.worst[key].value:.2g}"
                for key, words in _WORST.items()
                if key in result.worst
            )
            tell(
                f"verify {one.title}: the same, {result.matched} detections"
                + (f" ({worst})" if worst else "")
            )
    if good and not matched:
        tell(
            "verify: FAILED: PyTorch finds nothing in these images, so nothing was compared: give "
            "an image with objects (--test-img), or a --shape at which the model finds them"
        )
    return good and matched > 0


_WORST = {
    "box_px": "boxes within, px:",
    "score": "scores:",
    "mask": "mask probabilities:",
    "mask_iou": "least mask IoU:",
}


def _verify_raw(
    detector: nn.Module,
    session: Session,
    options: ExportOptions,
    image: Path,
    tolerance: Tolerance,
) -> bool:
    from pytest_onnxdet.backends.pytorch import Reference
    from pytest_onnxdet.verify.raw import compare_raw

    good = True
    for one in trials(detector, options, image):
        result = compare_raw(
            Reference(detector).raw(one.batch),
            session.run(one.batch),
            tolerance.raw_rtol,
            tolerance.raw_atol,
        )
        good &= result.ok
        verdict = "the same" if result.ok else "DIFFERENT"
        tell(f"verify {one.title}: raw outputs {verdict}: {result.format()}")
    return good


def _max_per_img(detector: Any) -> int | None:
    config = detector.cfg.model.get("test_cfg") or {}
    value = (config.get("rcnn") or config).get("max_per_img")
    return None if value is None else int(value)


def pictures(
    detector: nn.Module, session: Session, options: ExportOptions, image: Path, path: Path
) -> None:
    """Writes PyTorch's and the graph's detections side by side, and shows them on a screen."""
    from pytest_onnxdet.backends.pytorch import Reference
    from pytest_onnxdet.commands.pictures import beside, paint, save, show

    one = next(trials(detector, options, image))
    sides: Sequence[tuple[str, list[Detections]]] = (
        ("PyTorch", Reference(detector).run(one.batch)),
        ("ONNX", detections(session.run(one.batch), one.batch)),
    )
    canvas = _canvas(one, options)
    classes = tuple(getattr(detector, "CLASSES", ()))
    picture = beside([(name, paint(canvas, found[0], classes)) for name, found in sides])
    save(path, picture)
    tell(f"Detections, PyTorch beside ONNX: {path}")
    show(picture, path.name)


def _canvas(one: Trial, options: ExportOptions) -> Any:
    """What detections are painted on: the image at the size that they are given in."""
    import cv2

    canvas = cv2.imread(str(one.images[0]))
    height, width = one.batch.metas[0]["ori_shape"][:2]
    if options.mask_output == "image" and canvas.shape[:2] != (height, width):
        canvas = cv2.resize(canvas, (width, height))
    return np.ascontiguousarray(canvas)
