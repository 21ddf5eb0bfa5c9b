"""The self-test in a report: a sentence, and the table of faults by model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_onnxdet.report.layout import Cell, Labels, Notes, Table, clean, many
from pytest_onnxdet.report.records import BAD, Record

#: The check that a self-test's records name.
CHECK = "selftest"
_ORDER = ("caught", "equivalent", "below", "SURVIVED")
_WORDS = {
    "equivalent": "same bits",
    "below": "below",
    "SURVIVED": "SURVIVED",
    "not applicable": "–",
}


def split(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The records of conformance, and those of the self-test."""
    mutants = [r for r in records if r.check == CHECK]
    return [r for r in records if r.check != CHECK], mutants


def sentence(mutants: Sequence[Record]) -> str:
    """How many mutants there were, and what became of them; empty without a self-test."""
    counts = Counter(_outcome(r) for r in mutants)
    total = sum(counts[name] for name in _ORDER)
    if not mutants:
        return ""
    said = ", ".join(
        f"{counts[name]} {'survived' if name == 'SURVIVED' else name}" for name in _ORDER
    )
    broken = len(mutants) - total - counts["not applicable"]
    more = f", {broken} not judged" if broken else ""
    return f"Self-test: {many(total, 'mutant')}: {said}{more}."


def tables(mutants: Sequence[Record], notes: Notes) -> list[Table]:
    """Fault by model: which check caught it, and how many times the allowance it is off by."""
    if not mutants:
        return []
    labels = Labels(mutants)
    models = list(dict.fromkeys(_column(labels, r) for r in mutants))
    rows = []
    # Records are sorted by case; within one they keep the faults' order.
    for name in dict.fromkeys(_operator(r) for r in mutants):
        cells = [Cell(clean(name))]
        for model in models:
            tried = [r for r in mutants if _operator(r) == name and _column(labels, r) == model]
            texts = list(dict.fromkeys(map(_said, tried)))
            state = "failed" if any(r.outcome in BAD for r in tried) else ""
            cells.append(Cell(", ".join(texts), state, notes.of([r for r in tried if state])))
        rows.append(tuple(cells))
    remarks = (
        sentence(mutants),
        "In each cell: the check that refused the fault and how many times the allowance it is "
        "off by, where that check measures; –: the graph has no place for it.",
    )
    first = Table(
        "Self-test: faults by model", ("fault", *models), tuple(rows), remarks=remarks, detail=True
    )
    below = [r for r in mutants if _outcome(r) in ("below", "SURVIVED")]
    return [first, *([_effects(below, labels, notes)] if below else [])]


def _effects(records: Sequence[Record], labels: Labels, notes: Notes) -> Table:
    rows = []
    for record in records:
        effect = record.metrics.get("effect") or {}
        figures = [effect.get(key) for key in ("box_px", "score", "mask", "ap")]
        rows.append(
            (
                Cell(clean(_operator(record))),
                Cell(clean(_column(labels, record))),
                Cell(clean(str(record.metrics.get("place") or ""))),
                Cell(_outcome(record), record.outcome, notes.of([record])),
                *(Cell("" if v is None else f"{v:.2g}", figure=True) for v in figures),
            )
        )
    return Table(
        "Self-test: faults that no check refused",
        ("fault", "model", "place", "outcome", "box px", "score", "mask", "AP"),
        tuple(rows),
        keys=2,
        remarks=("Against the good graph: the greatest difference of a detection, and of AP.",),
    )


def _column(labels: Labels, record: Record) -> str:
    return labels.model(record)


def _operator(record: Record) -> str:
    return str(record.metrics.get("operator") or "?")


def _outcome(record: Record) -> str:
    return str(record.metrics.get("mutant") or record.outcome)


def _said(record: Record) -> str:
    outcome = _outcome(record)
    if outcome != "caught":
        return _WORDS.get(outcome, outcome)
    margin = record.figure("margin")
    check = str(record.metrics.get("caught_by") or "")
    return check if margin is None else f"{check} ×{margin:.3g}"
