"""``--verify``: the exported file on plain ONNX Runtime against the detector in PyTorch.

The verdict is the suite's own (:mod:`pytest_onnxdet.verify.judge`), with the same proofs of ties.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_onnxdet.commands.common import say
from pytest_onnxdet.commands.images import batch_of
from pytest_onnxdet.commands.results import checked, detections
from pytest_onnxdet.commands.verdicts import in_a_line
from pytest_onnxdet.data.batches import Batch, alone
from pytest_onnxdet.data.image_maps import image_maps
from pytest_onnxdet.data.masks import mask_threshold
from pytest_onnxdet.families.base import split_raw
from pytest_onnxdet.families.registry import clips_boxes
from pytest_onnxdet.models.spec import GPU, Tolerance
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.judge import Sides, TieProofs, judge

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.export.options import ExportOptions
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.verify.verdict import Verdict

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
    """Compares, prints the verdicts, and says whether every difference is within the tolerance.

    Every comparison has to stand on its own: one in which PyTorch finds nothing in an image is no
    success, whatever the others show.
    """
    fault = _invalid(session.artifact.path)
    if fault is not None:
        say(f"verify: FAILED: onnx.checker refuses the graph: {fault}")
        return False
    if not options.postprocess:
        return _verify_raw(detector, session, options, images, tolerance)
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.run.noise import measure

    reference = Reference(detector)
    good = True
    with _raw_session(detector, options) as raw_session:
        for trial in trials(detector, options, images):
            candidates, broken = read(detector, session, trial.batch)
            reference_detections = reference.run(trial.batch)
            raw = reference.raw(trial.batch)
            # An allowance that somebody chose is not narrowed: see `run.parity`.
            noise = (
                measure(reference, [trial.batch], [raw], reference_detections).on(session.device)
                if tolerance in (Tolerance(), GPU)
                else None
            )
            sides = Sides(
                reference_detections,
                candidates,
                singles=_singles(detector, session, trial.batch, options),
                raw_reference=[raw],
                raw=[split_raw(raw_session().run(trial.batch))[0]],
                noise=noise,
            )
            verdict = compare(reference, trial, sides, tolerance, raw_session)
            good &= verdict.ok and not broken
            say(f"verify {trial.title}: {in_a_line(verdict, broken)}")
    return good


def read(detector: nn.Module, session: Session, batch: Batch) -> tuple[list[Detections], str]:
    """What the graph finds, masks cut at the detector's own threshold.

    Returns:
        The detections, and how the values depart from the graph's contract; empty: they do not.
    """
    cfg: Any = detector.cfg
    outputs, broken = session.run(batch), ""
    maps = image_maps(session.artifact.info)
    logits = maps is not None and maps.logits
    try:
        checked(outputs, batch, clips=clips_boxes(detector), logits=logits)
    except CheckFailed as error:
        broken = str(error)
    return detections(outputs, batch, mask_threshold(cfg.model), maps), broken


def _singles(
    detector: nn.Module, session: Session, batch: Batch, options: ExportOptions
) -> list[Detections] | None:
    """The graph's detections of a batch's images one by one, each padded as in the batch.

    None for a batch of one, and where the graph takes no other batch than its own.
    """
    if batch.valid == 1 or options.shape == "static":
        return None
    return [one for image in alone(batch) for one in read(detector, session, image)[0]]


def compare(
    reference: Reference,
    trial: Trial,
    sides: Sides,
    tolerance: Tolerance,
    raw_session: Callable[[], Session],
) -> Verdict:
    """The judge's verdict on one comparison.

    Args:
        reference: asked for proofs of ties.
        trial: what both sides ran.
        sides: what each found in it; the names of classes and images are added.
        tolerance: the allowances.
        raw_session: gives a session of the raw outputs of the same detector.
    """
    from pytest_onnxdet.reference.detector import max_per_img
    from pytest_onnxdet.run.ties import of_image

    limit = max_per_img(reference.detector)

    def alternatives(index: int, candidate: Detections, singly: bool) -> Sequence[Detections]:
        batch, place = trial.batch, index
        if singly:
            batch, place = list(alone(batch))[index], 0
        return of_image(reference, batch, place, candidate, raw_session, tolerance, limit)

    named = replace(
        sides,
        classes=tuple(getattr(reference.detector, "CLASSES", ())),
        images=[path.name for path in trial.images],
        max_per_img=limit,
        every_image=True,
    )
    # A share of tied images says nothing of the one or two of a trial: each has its proof.
    return judge(named, tolerance, TieProofs(alternatives))


@contextlib.contextmanager
def _raw_session(detector: nn.Module, options: ExportOptions) -> Iterator[Callable[[], Session]]:
    """Gives a session of the detector's raw outputs, which is exported when it is first asked for.

    They are not among the graph's outputs, nor is what it chose among proposals or corners. Where
    the graph's batch is fixed, so is this one's.
    """
    from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.export.exporter import export_detector

    raw = replace(options, postprocess=False, single_input=False, mask_output="roi", simplify=False)
    with contextlib.ExitStack() as stack:

        @cache
        def session() -> Session:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            path = Path(folder) / "raw.onnx"
            artifact = Artifact(path, "", False, export_detector(detector, raw, path))
            return stack.enter_context(OnnxRuntimeBackend().prepare(artifact))

        yield session


def _invalid(path: Path) -> str | None:
    """Why a file is no valid ONNX graph, None where it is one."""
    import onnx

    try:
        onnx.checker.check_model(onnx.load(str(path)), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())[:300]
    return None


def _verify_raw(
    detector: nn.Module,
    session: Session,
    options: ExportOptions,
    images: tuple[Path, Path],
    tolerance: Tolerance,
) -> bool:
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.run.noise import measure
    from pytest_onnxdet.verify.noise import compare_to_exact
    from pytest_onnxdet.verify.raw import compare_raw

    good = True
    reference = Reference(detector)
    for trial in trials(detector, options, images):
        expected, outputs = reference.raw(trial.batch), session.run(trial.batch)
        if tolerance in (Tolerance(), GPU):
            noise = measure(reference, [trial.batch], [expected], []).on(session.device)
            result = compare_to_exact(noise, [expected], [outputs])
        else:
            result = compare_raw(expected, outputs, tolerance.raw_rtol, tolerance.raw_atol)
        good &= result.ok
        verdict = "the same" if result.ok else "DIFFERENT"
        say(f"verify {trial.title}: raw outputs {verdict}: {result.format()}")
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

    trial = next(trials(detector, options, images))
    sides: Sequence[tuple[str, list[Detections]]] = (
        ("PyTorch", Reference(detector).run(trial.batch)),
        ("ONNX", read(detector, session, trial.batch)[0]),
    )
    canvas = _canvas(trial, options)
    classes = tuple(getattr(detector, "CLASSES", ()))
    picture = beside([(name, paint(canvas, detections[0], classes)) for name, detections in sides])
    save(path, picture)
    say(f"Detections, PyTorch beside ONNX: {path}")
    with Window(asked=True) as window:
        window.show(picture, path.name)


def _canvas(trial: Trial, options: ExportOptions) -> Any:
    """What detections are painted on: the image at the size that their pixels refer to."""
    import cv2

    canvas = cv2.imread(str(trial.images[0]))
    height, width = trial.batch.metas[0]["ori_shape"][:2]
    if options.mask_output == "image" and canvas.shape[:2] != (height, width):
        canvas = cv2.resize(canvas, (width, height))
    return np.ascontiguousarray(canvas)
