"""``--verify``: the exported file on plain ONNX Runtime against the detector in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_onnxdet.commands.common import in_words, tell
from pytest_onnxdet.commands.images import batch_of
from pytest_onnxdet.commands.results import checked, detections
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.masks import mask_threshold
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.values import clips_boxes

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.export.options import ExportOptions
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.verify.mismatch import ParityResult

LARGEST = 1344  # the stock tool's limit for the other size that a dynamic graph is tried at
MULTIPLE = 32


class Trial(NamedTuple):
    """One comparison: what is run, and how it is called."""

    title: str
    batch: Batch
    images: tuple[Path, ...]


def other_size(size: tuple[int, int]) -> tuple[int, int]:
    """Half as large again, in multiples of 32 and up to 1344, as the stock tool chooses.

    Of a small size that is no other one, or none at all: then it is the next multiple. A size that
    is at the limit already is tried smaller.
    """
    height, width = (
        min(LARGEST, max(int(n * 1.5) // MULTIPLE, n // MULTIPLE + 1) * MULTIPLE) for n in size
    )
    if (height, width) == size:
        height, width = (max(MULTIPLE, n * 3 // 4 // MULTIPLE * MULTIPLE) for n in size)
    return height, width


def trials(
    detector: nn.Module, options: ExportOptions, images: tuple[Path, Path]
) -> Iterator[Trial]:
    """What a graph is tried on.

    A static graph: its own shape; several images where its batch has them. A dynamic graph: the
    shape it was exported at, another one, and a batch of different images, one of them padded.
    Graphs of a single input take padding for image, so for them nothing is padded.

    Args:
        detector: its config prepares the images.
        options: what the graph was exported with.
        images: two different ones; a batch takes them in turn.
    """
    from pytest_onnxdet.models.channels import input_channels

    cfg: Any = detector.cfg
    own_size = options.mask_output == "image"
    channels = input_channels(detector)

    def trial(count: int, size: tuple[int, int]) -> Trial:
        paths = tuple(images[i % 2] for i in range(count))
        fill = [i % 2 == 0 or options.single_input for i in range(count)]
        batch = batch_of(cfg, paths, size, fill=fill, own_size=own_size, channels=channels)
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
    images: tuple[Path, Path],
    tolerance: Tolerance,
) -> bool:
    """Compare, print what was found, and say whether every difference is within the tolerance.

    Every comparison has to stand on its own: one in which PyTorch finds nothing in an image is no
    success, whatever the others found.
    """
    fault = _invalid(session.artifact.path)
    if fault is not None:
        tell(f"verify: FAILED: onnx.checker refuses the graph: {fault}")
        return False
    if not options.postprocess:
        return _verify_raw(detector, session, options, images, tolerance)
    from pytest_onnxdet.reference.detector import Reference

    reference = Reference(detector)
    good = True
    for one in trials(detector, options, images):
        found, broken = read(detector, session, one.batch)
        ours = reference.run(one.batch)
        result, tied = _compare(reference, ours, found, one, tolerance)
        empty = [path.name for path, mine in zip(one.images, ours, strict=True) if not len(mine)]
        if result.faults:
            good = False
            text = [f"{result.format()}{_unproven(result)}", broken]
            tell(f"verify {one.title}: DIFFERENT: " + "\n".join(filter(None, text)))
        elif broken:
            good = False
            tell(f"verify {one.title}: FAILED: {broken}")
        elif empty or result.vacuous:
            good = False
            tell(
                f"verify {one.title}: FAILED: PyTorch finds nothing in "
                f"{in_words(list(dict.fromkeys(empty))) or 'these images'}, so nothing was "
                "compared there: give images with objects (--test-img, and with it --input-img as "
                "the second one of a batch), or a --shape at which the model finds them"
            )
        else:
            worst = [
                f"{words} {result.worst[key].value:.2g}"
                for key, words in _WORST.items()
                if key in result.worst
            ]
            told = ", ".join([*worst, *tied])
            tell(
                f"verify {one.title}: the same, {result.matched} detections"
                + (f" ({told})" if told else "")
            )
    return good


def read(detector: nn.Module, session: Session, batch: Batch) -> tuple[list[Detections], str]:
    """What the graph finds, masks cut at the detector's own threshold.

    Returns:
        The detections, and how the values depart from the graph's contract; empty: they do not.
    """
    cfg: Any = detector.cfg
    outputs, broken = session.run(batch), ""
    try:
        checked(outputs, batch, clips=clips_boxes(detector))
    except CheckFailed as error:
        broken = str(error)
    return detections(outputs, batch, mask_threshold(cfg.model)), broken


def _invalid(path: Path) -> str | None:
    """Why a file is no valid ONNX graph, None where it is one."""
    import onnx

    try:
        onnx.checker.check_model(onnx.load(str(path)), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())[:300]
    return None


def _compare(
    reference: Reference,
    ours: list[Detections],
    found: list[Detections],
    one: Trial,
    tolerance: Tolerance,
) -> tuple[ParityResult, list[str]]:
    """The comparison, and what is to be told of ties that it accepts.

    A mask may differ in pixels that tie with the threshold; and PointRend's within the bounds that
    points of equal certainty leave it, which are computed only where its masks differ, as that
    takes as long as the detector.
    """
    from pytest_onnxdet.reference.detector import max_per_img
    from pytest_onnxdet.verify.compare import compare_detections

    detector: Any = reference.detector

    def compare(wanted: list[Detections]) -> ParityResult:
        return compare_detections(
            wanted,
            found,
            tolerance,
            classes=tuple(getattr(detector, "CLASSES", ())),
            images=[path.name for path in one.images],
            max_per_img=max_per_img(detector),
            mask_ties=True,
        )

    def ties(result: ParityResult) -> int:
        return sum(mismatch.kind == "mask_tie" for mismatch in result.mismatches)

    result = compare(ours)
    if any(fault.kind in _OF_MASKS for fault in result.faults):
        ranged = reference.run(one.batch, mask_ranges=True)
        if any(mine.mask_range is not None for mine in ranged):
            result = compare(ranged)
            return result, [
                "masks within what points of equal certainty leave open, "
                f"{ties(result)} of them below the least IoU"
            ]
    count = ties(result)
    tied = f"{count} of the masks differ only in pixels that tie with the threshold"
    return result, [tied] if count else []


def _unproven(result: ParityResult) -> str:
    """A note where whole detections differ: that can be a tie, and is not looked into here."""
    if not any(fault.kind in _OF_CHOICES for fault in result.faults):
        return ""
    return (
        "\n  not looked into here: whether floats that tie let either side choose other boxes; "
        "`pytest --onnxdet` looks for that proof"
    )


_OF_MASKS = ("mask_iou", "mask_drift")
_OF_CHOICES = ("missed", "extra", "duplicate", "label_flip")
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
    images: tuple[Path, Path],
    tolerance: Tolerance,
) -> bool:
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.verify.raw import compare_raw

    good = True
    for one in trials(detector, options, images):
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


def pictures(
    detector: nn.Module,
    session: Session,
    options: ExportOptions,
    images: tuple[Path, Path],
    path: Path,
) -> None:
    """Writes PyTorch's and the graph's detections side by side, and shows them in a window."""
    from pytest_onnxdet.commands.pictures import beside, paint, save
    from pytest_onnxdet.commands.window import Window
    from pytest_onnxdet.reference.detector import Reference

    one = next(trials(detector, options, images))
    sides: Sequence[tuple[str, list[Detections]]] = (
        ("PyTorch", Reference(detector).run(one.batch)),
        ("ONNX", read(detector, session, one.batch)[0]),
    )
    canvas = _canvas(one, options)
    classes = tuple(getattr(detector, "CLASSES", ()))
    picture = beside([(name, paint(canvas, found[0], classes)) for name, found in sides])
    save(path, picture)
    tell(f"Detections, PyTorch beside ONNX: {path}")
    with Window(asked=True) as window:
        window.show(picture, path.name)


def _canvas(one: Trial, options: ExportOptions) -> Any:
    """What detections are painted on: the image at the size that they are given in."""
    import cv2

    canvas = cv2.imread(str(one.images[0]))
    height, width = one.batch.metas[0]["ori_shape"][:2]
    if options.mask_output == "image" and canvas.shape[:2] != (height, width):
        canvas = cv2.resize(canvas, (width, height))
    return np.ascontiguousarray(canvas)
