"""The suite's checks as plain functions: each returns its figures, or raises one full message.

A check knows nothing of pytest. It gets what was run, collects every way in which it is wrong, and
raises :class:`CheckFailed` once. A check that compared nothing fails. Parity is judged in
:mod:`pytest_onnxdet.verify.judge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.errors import StageError
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.graph.describe import describe
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.accuracy import AccuracyError, compare_ap
from pytest_onnxdet.verify.contract import contract_faults, first_difference

LOOK = (
    "look at: lowering (the deploy model in PyTorch against the detector), export (the graph, "
    "not optimised, against the deploy model), runtime (the backend against that); "
    "pytest_onnxdet.verify.localize names the first that differs"
)


class CheckFailed(StageError):
    """A check does not hold.

    Attributes:
        message: the whole account, beginning with the case.
        metrics: the figures as far as they were computed, for the report.
        stage: the check that failed: ``export``, ``parity`` or ``accuracy``.
    """

    def __init__(self, message: str, metrics: Mapping[str, Any], stage: str) -> None:
        super().__init__(message)
        self.message = message
        self.metrics = dict(metrics)
        self.stage = stage


def check_export(
    artifact: Artifact, again: Artifact | Path | None = None, *, case_id: str = ""
) -> dict[str, Any]:
    """The graph is valid, keeps the contract, needs no custom operator, and comes out the same.

    Args:
        artifact: the exported graph.
        again: a second, independent export of the same thing; the two must be equal, byte for
            byte. None leaves determinism unchecked.
        case_id: begins the message; the file's name when empty.

    Returns:
        seconds (of the export), cached, nodes, bytes, opset, domains (those used by operators).

    Raises:
        CheckFailed: with every fault.
    """
    import onnx

    name = case_id or artifact.path.name
    metrics: dict[str, Any] = {
        "seconds": artifact.info.get("seconds"),
        "cached": artifact.cached,
        "bytes": artifact.path.stat().st_size,
    }
    try:
        model = onnx.load(artifact.path)
    except Exception as error:  # protobuf's DecodeError is not part of onnx's interface
        raise CheckFailed(
            f"{name}: the graph cannot be read: {error}", metrics, "export"
        ) from error
    metrics.update(describe(model))
    faults = []
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        faults.append(f"onnx.checker: {_first_line(error)}")
    faults += contract_faults(model, artifact.info)
    if again is not None:
        other = again.path if isinstance(again, Artifact) else again
        if other.resolve() == artifact.path.resolve():
            faults.append("determinism: both exports are the same file, so nothing was compared")
        elif other.read_bytes() != artifact.path.read_bytes():
            difference = first_difference(model, onnx.load(other))
            faults.append(f"determinism: two exports differ: {difference}")
    if faults:
        lines = [f"{name}: {len(faults)} fault(s) in the exported graph"]
        lines += [f"  {fault}" for fault in faults]
        lines.append("look at: export (the deploy model and the exporter); no runtime was asked")
        raise CheckFailed("\n".join(lines), metrics, "export")
    return metrics


def check_accuracy(
    dataset: Any,
    reference: Sequence[Detections],
    candidate: Sequence[Detections],
    *,
    tolerance: Tolerance,
    case_id: str,
    metrics: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The candidate's COCO AP is the reference's: neither lower nor higher than allowed.

    Args:
        dataset: the data room's Dataset, with ground truth for exactly these images.
        reference: PyTorch's detections, one entry per image of the data set.
        candidate: the backend's.
        tolerance: ``ap`` is the allowance, on the 0-1 scale, in either direction.
        case_id: begins the message.
        metrics: ``bbox``, ``segm``; None: what the reference has, see :func:`kinds_of`.

    Returns:
        bbox_mAP_torch, bbox_mAP, bbox_mAP_delta, likewise segm, unrounded.

    Raises:
        CheckFailed: AP differs, cannot be computed, or is 0 in PyTorch, where any two broken
            models would agree.
    """
    metrics = kinds_of(reference) if metrics is None else metrics
    try:
        figures = compare_ap(dataset, reference, candidate, metrics)
    except AccuracyError as error:
        raise CheckFailed(f"{case_id}: {error}\n{LOOK}", {}, "accuracy") from error
    lines = []
    for metric in metrics:
        ours, theirs = figures[f"{metric}_mAP_torch"], figures[f"{metric}_mAP"]
        delta = figures[f"{metric}_mAP_delta"]
        if not ours > 0:
            lines.append(f"{metric} AP of PyTorch is {ours:g}: nothing was found, nothing compared")
        elif not abs(delta) <= tolerance.ap:
            lines.append(
                f"{metric} AP is {theirs:.5f} where PyTorch has {ours:.5f}: difference "
                f"{delta:+.5f} (up to {tolerance.ap:g} allowed in either direction)"
            )
    if lines:
        raise CheckFailed("\n".join([f"{case_id}: " + "\n".join(lines), LOOK]), figures, "accuracy")
    return figures


def kinds_of(
    reference: Sequence[Detections], allowed: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The kinds of AP, ``bbox`` and ``segm``, that PyTorch's detections have.

    Where they have masks and every box is 0, as of SOLO, which has none, it is ``segm`` alone.

    Args:
        reference: one entry per image.
        allowed: the kinds that the annotations have; None: both.
    """
    kinds: tuple[str, ...] = ("bbox",)
    if reference and all(one.masks is not None for one in reference):
        boxes = any(one.boxes.any() for one in reference) or not any(map(len, reference))
        kinds = ("bbox", "segm") if boxes else ("segm",)
    return tuple(kind for kind in kinds if allowed is None or kind in allowed)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
