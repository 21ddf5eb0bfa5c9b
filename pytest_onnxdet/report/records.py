"""One record for each case and check: what report.json holds and every table is made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pytest_onnxdet.core.vocabulary import CHECKS, STRUCTURE
from pytest_onnxdet.models.zoo import DOCUMENTED

SCHEMA = 1
#: Outcomes that fail a run.
BAD = ("failed", "error", "crashed", "timeout")
OUTCOMES = ("passed", "failed", "skipped", "xfailed", "error", "crashed", "timeout")

WORST_FIRST = ("crashed", "timeout", "error", "failed", "skipped", "xfailed", "passed")


@dataclass(frozen=True)
class Record:
    """The outcome of one check of one case.

    Attributes:
        id: the case, ``mask_rcnn-onnxruntime-dynamic-b2``.
        model, profile, backend, device, shape, batch, precision: the case's axes.
        check: ``export``, ``parity``, ``accuracy``, ``latency`` or ``build``.
        outcome: one of :data:`OUTCOMES`; ``crashed``: its process died, ``timeout``: it took
            longer than ``--onnxdet-case-timeout``.
        reason: why it failed or was skipped; empty when it passed.
        metrics: the check's figures by check. AP on the 0-1 scale.

            * ``export``: seconds, cached, nodes, bytes, opset, domains
            * ``build``: seconds, engine_bytes (``bytes`` is read too)
            * ``parity``: images, detections, matched, missed, extra, max_box_px, max_score,
              max_mask, min_mask_iou, raw_max_abs, raw_max_rel; tied_images, tied_detections: what
              differs from PyTorch where that was proven to be a tie of floats; cuts_reached: in how
              many images PyTorch reached each limit on candidates, by the limit's name
            * ``parity``, ``accuracy``: augmentation, where the test pipeline makes several views
              of an image, of which the first alone was run; data_notes: what was completed in
              the data set, and what is odd about it, where anything is
            * ``accuracy``: for X in bbox_mAP, segm_mAP: X_torch, X, X_delta
            * ``latency``: ms, torch_ms, speedup, min, median, iqr (all times in milliseconds),
              rounds; where they were measured torch_iqr, results_ms, and ratio_iqr: of the rounds'
              (graph + results) / PyTorch
    """

    id: str
    model: str
    profile: str
    backend: str
    device: str
    shape: str
    batch: int
    precision: str
    check: str
    outcome: str
    reason: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome {self.outcome!r} is not one of {', '.join(OUTCOMES)}")

    def to_json(self) -> dict[str, Any]:
        """The record as report.json holds it.

        A figure that is not finite becomes null; numpy's and torch's scalars become numbers.

        Raises:
            TypeError: a figure is something that JSON cannot hold; the message names it.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "metrics": {k: _plain(v, k) for k, v in self.metrics.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Reads what :meth:`to_json` wrote. Fields that this version does not know are ignored.

        Raises:
            ValueError: a field is missing or of the wrong kind; the message names it.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a case is {type(data).__name__}, expected an object")
        values: dict[str, Any] = {}
        for known in fields(cls):
            if known.name not in data:
                if known.name in ("reason", "metrics"):
                    continue
                raise ValueError(f"a case has no {known.name!r}")
            value = data[known.name]
            kind = {"batch": int, "metrics": Mapping}.get(known.name, str)
            if not isinstance(value, kind):
                raise ValueError(f"{known.name!r} is {value!r}, expected {kind.__name__}")
            values[known.name] = value
        return cls(**values)

    def figure(self, name: str) -> float | None:
        """A metric as a finite number, or None where there is none."""
        value = self.metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            value = getattr(value, "item", lambda: None)()
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
        return None


def worst(outcomes: Iterable[str]) -> str:
    """The outcome that decides where several records meet in one cell.

    A skipped one counts as worse than a passed one: half a cell that ran is not a cell that passed.
    """
    present = set(outcomes)
    return next(o for o in WORST_FIRST if o in present)


def check_order(check: str) -> tuple[int, str]:
    """Sorts checks in the order of :data:`CHECKS`, unknown ones last and by name."""
    order = tuple(CHECKS)
    return (order.index(check) if check in order else len(order), check)


def shape_order(shape: str) -> tuple[int, str]:
    """Sorts static before dynamic, others last."""
    known = ("static", "dynamic")
    return (known.index(shape) if shape in known else len(known), shape)


def in_order(records: Iterable[Record]) -> list[Record]:
    """Sorted by their axes, so that a report does not depend on which worker was faster.

    The documented detectors come before others.
    """
    return sorted(
        records,
        key=lambda r: (
            r.profile == STRUCTURE,
            r.profile,
            r.model not in DOCUMENTED,
            r.model,
            r.backend,
            r.device,
            r.precision,
            shape_order(r.shape),
            r.batch,
            check_order(r.check),
            r.id,
        ),
    )


def _plain(value: Any, name: str) -> Any:
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        value = value.tolist()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_plain(v, name) for v in items]
    raise TypeError(f"metric {name!r} is a {type(value).__name__}, which JSON cannot hold")


def plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as report.json holds them; raises TypeError for one that it cannot hold."""
    record = Record("", "", "", "", "", "", 1, "", "", "passed", metrics=metrics)
    return dict(record.to_json()["metrics"])
