"""The suite's checks as plain functions: each returns its figures, or raises one full message.

A check knows nothing of pytest. It gets what was run, collects every way in which it is wrong, and
raises :class:`CheckFailed` once. A check that compared nothing fails.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.graph.describe import describe
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.accuracy import AccuracyError, compare_ap
from pytest_onnxdet.verify.compare import compare_detections
from pytest_onnxdet.verify.contract import contract_faults, first_difference
from pytest_onnxdet.verify.mismatch import ParityResult
from pytest_onnxdet.verify.raw import Arrays, RawResult, compare_raw

LOOK = (
    "look at: lowering (the deploy model in PyTorch against the detector), export (the graph, "
    "not optimised, against the deploy model), runtime (the backend against that); "
    "pytest_onnxdet.verify.localize names the first that differs"
)


class CheckFailed(Exception):
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


def check_parity(
    reference: Sequence[Detections],
    candidate: Sequence[Detections],
    *,
    tolerance: Tolerance,
    classes: Sequence[str],
    case_id: str,
    max_per_img: int | None = None,
    raw_reference: Arrays | Sequence[Arrays] | None = None,
    raw: Arrays | Sequence[Arrays] | None = None,
    singles: Sequence[Detections] | None = None,
    images: Sequence[str] = (),
    mask_ties: bool = False,
    most_tied: float = 1.0,
    settle: Callable[[int, Detections, bool], Sequence[Detections]] | None = None,
    locate: Callable[[], str] | None = None,
) -> dict[str, Any]:
    """The candidate finds the reference's detections, and nothing else.

    Args:
        reference: PyTorch's detections, one entry per image.
        candidate: the backend's, for the same images.
        tolerance: the allowances.
        classes: class names in label order.
        case_id: begins the message.
        max_per_img: where the reference is cut; allows proven ties at the cut.
        raw_reference: the heads' outputs in PyTorch, by name, for one batch or a list of them.
        raw: the exported heads' outputs. Both or neither.
        singles: the candidate's detections, computed image by image, each padded to the size it
            has in its batch: a batch of k must equal k singles.
        images: file names.
        mask_ties: accept masks that differ only in pixels at the threshold, see
            :func:`compare_detections`.
        most_tied: the greatest share of images that ``settle`` may make accepted, rounded up.
        settle: asked for each image that differs, with the candidate's detections and whether it
            is run singly: what else the reference itself might have found, had it decided
            otherwise between floats that tie. A candidate that equals one of these is accepted and
            counted. With it nothing else counts as a tie, at the cut neither.
        locate: asked on failure for a line that names the stage to blame.

    Returns:
        The figures of :attr:`ParityResult.metrics` and, with raw outputs, raw_max_abs and
        raw_max_rel; without them those two are None; and with ``settle``, tied_images: how many
        images were accepted by it, and tied_detections: how many of their detections are missed,
        extra or otherwise not the reference's first answer.

    Raises:
        CheckFailed: with every mismatch.
        ValueError: only one of raw_reference and raw is given.
    """
    if (raw_reference is None) != (raw is None):
        raise ValueError("raw_reference and raw are compared with each other: give both or neither")
    metrics: dict[str, Any] = {"raw_max_abs": None, "raw_max_rel": None}
    parts: list[str] = []
    hint = LOOK
    network: RawResult | None = None
    if raw_reference is not None and raw is not None:
        network = compare_raw(raw_reference, raw, tolerance.raw_rtol, tolerance.raw_atol)
        metrics |= network.metrics
        if not network.ok:
            parts.append(f"raw outputs of the heads: {network.format()}")

    def compare(ours: Sequence[Detections], theirs: Sequence[Detections]) -> ParityResult:
        return compare_detections(
            ours,
            theirs,
            tolerance,
            classes=classes,
            images=images,
            max_per_img=max_per_img if settle is None else None,
            mask_ties=mask_ties,
        )

    @cache
    def proof(index: int, singly: bool = False) -> Detections | None:
        """What the reference makes of the raw outputs of an image, if the candidate finds that."""
        found = candidate[index] if singles is None or not singly else singles[index]
        possible = settle(index, found, singly) if settle is not None else ()
        return next((one for one in possible if not compare([one], [found]).faults), None)

    try:
        final = first = compare(reference, candidate)
        proven = {index: proof(index) for index in sorted({fault.index for fault in first.faults})}
        settled = {index: one for index, one in proven.items() if one is not None}
        if settled and not final.vacuous:
            ours = [settled.get(index, one) for index, one in enumerate(reference)]
            final = compare(ours, candidate)
        if settle is not None:
            metrics["tied_images"] = len(settled)
            metrics["tied_detections"] = len(
                {(f.index, f.reference, f.candidate) for f in first.faults if f.index in settled}
            )
            # Of a few images a share is less than one, and one may tie.
            if len(settled) > (max(1, math.ceil(most_tied * len(reference))) if most_tied else 0):
                parts.append(
                    f"float ties explain {len(settled)} of {len(reference)} image(s), more than "
                    f"the {most_tied:.0%} that the model's spec expects: {first.format()}"
                )
        if not final.ok:
            parts.append(f"detections: {final.format()}")
        metrics = final.metrics | metrics
    except ValueError as error:
        parts.append(f"detections: {error}")
    if singles is not None:
        try:
            alone = compare(singles, candidate)
            left = {
                index
                for index in {fault.index for fault in alone.faults}
                if proof(index) is None or proof(index, singly=True) is None
            }
            if left or alone.vacuous:
                parts.append(f"a batch against its images one by one: {alone.format()}")
        except ValueError as error:
            parts.append(f"a batch against its images one by one: {error}")
    if not parts:
        return metrics
    if network is not None:
        hint = (
            "the heads' outputs agree, so decoding or post-processing is at fault; "
            if network.ok
            else "the heads' outputs differ already, so post-processing need not be at fault; "
        ) + LOOK
    if locate is not None:
        hint = f"{_guarded(locate)}\n{hint}"
    raise CheckFailed("\n".join([f"{case_id}: " + "\n".join(parts), hint]), metrics, "parity")


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
        metrics: ``bbox``, ``segm``; None: segm too where the reference has masks.

    Returns:
        bbox_mAP_torch, bbox_mAP, bbox_mAP_delta, likewise segm, unrounded.

    Raises:
        CheckFailed: AP differs, cannot be computed, or is 0 in PyTorch, where any two broken
            models would agree.
    """
    if metrics is None:
        masks = bool(reference) and all(one.masks is not None for one in reference)
        metrics = ("bbox", "segm") if masks else ("bbox",)
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


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _guarded(locate: Callable[[], str]) -> str:
    """A failed search for the fault must not hide the fault."""
    start = time.perf_counter()
    try:
        return locate()
    except Exception as error:
        spent = time.perf_counter() - start
        return f"naming the stage failed after {spent:.1f} s: {type(error).__name__}: {error}"
