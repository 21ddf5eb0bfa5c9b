"""A run in a few lines: what the terminal says where the tables would be too long."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from pytest_onnxdet.report.figures import engines, speedup
from pytest_onnxdet.report.layout import WORDS, Labels, Target, clean, identified
from pytest_onnxdet.report.records import OUTCOMES, Record, check_order
from pytest_onnxdet.report.tables import METRICS, by, targets

_GAP = "  "


def target_lines(records: Sequence[Record]) -> list[str]:
    """A sentence for each target: how many of each check passed, the speed-up, the engines."""
    labels = Labels(records)
    said = []
    for target in targets(records):
        own = [r for r in records if Target.of(r) == target]
        counted = []
        for check in sorted({r.check for r in own}, key=check_order):
            counts = Counter(r.outcome for r in own if r.check == check)
            counted.append(
                f"{check} " + " ".join(f"{counts[o]} {WORDS[o]}" for o in OUTCOMES if counts[o])
            )
        name = f"{labels.target(target)} on {target.device}"
        parts = [f"{clean(name)}: {', '.join(counted)}.", _speed(own), engines(own)]
        said.append(" ".join(filter(None, parts)))
    return said


def _speed(records: Sequence[Record]) -> str:
    ratios = [(ratio, identified(r)) for r in records if (ratio := _ratio(r)) is not None]
    if not ratios:
        return ""
    least, case = min(ratios)
    median = statistics.median(ratio for ratio, _ in ratios)
    return f"Speed-up over PyTorch: median x{median:.2f}, least x{least:.2f} ({case})."


def _ratio(record: Record) -> float | None:
    return speedup(record) if record.check == "latency" else None


def ap_rows(records: Sequence[Record], width: int, room: int) -> list[str]:
    """Each model's least AP in PyTorch, several models a row; empty without accuracy figures.

    Args:
        records: those of what ran.
        width: columns of the terminal.
        room: most rows, at least 1. Models that do not fit are counted.
    """
    labels = Labels(records)
    models = {}
    for model, own in by([r for r in records if r.check == "accuracy"], labels.model).items():
        figures = [
            f"{min(values) * 100:.1f}"
            for metric in METRICS
            if (values := [v for r in own if (v := r.figure(f"{metric}_torch")) is not None])
        ]
        if figures:
            models[clean(model)] = "/".join(figures)
    if not models:
        return []
    rows, shown = _columns(models, width, room)
    if left := len(models) - shown:
        rows[-1] = f"and {left} more models"
    return rows


def ap_heading(records: Sequence[Record]) -> str:
    """What :func:`ap_rows` are, and how far a graph's AP is off at most."""
    differences = [
        (value * 100, identified(r))
        for r in records
        for metric in METRICS
        if r.check == "accuracy" and (value := r.figure(f"{metric}_delta")) is not None
    ]
    if not differences:
        return "AP x 100 in PyTorch, each model's least:"
    largest, case = max(differences, key=lambda pair: abs(pair[0]))
    largest = round(largest, 2) + 0.0  # -0.0 of a rounded tiny difference becomes 0.0
    off = f"{largest:+.2f} ({case})" if largest else "0.00"
    return f"AP x 100 in PyTorch, each model's least; the graphs' is off by at most {off}:"


def _columns(models: dict[str, str], width: int, room: int) -> tuple[list[str], int]:
    """The rows of a list read down its columns, and how many models are in them."""
    cells = list(models.items())
    for depth in range(1, len(cells) + 1):
        columns = [cells[i : i + depth] for i in range(0, len(cells), depth)]
        texts = []
        for column in columns:
            names, figures = (max(len(cell[i]) for cell in column) for i in (0, 1))
            texts.append([f"{name:<{names}} {figure:<{figures}}" for name, figure in column])
        wide = sum(len(column[0]) for column in texts) + len(_GAP) * (len(texts) - 1)
        if wide <= width:
            break
    rows = [
        _GAP.join(column[i] for column in texts if i < len(column)).rstrip() for i in range(depth)
    ]
    if depth <= room:
        return rows, len(cells)
    shown = sum(len(column[: room - 1]) for column in columns)
    return rows[:room], shown
