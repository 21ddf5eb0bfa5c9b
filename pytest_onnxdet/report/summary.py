"""A whole report before it is drawn: the verdict, the tables, and the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_onnxdet.report import figures, mutants, tables
from pytest_onnxdet.report.layout import Note, Notes, Table, many
from pytest_onnxdet.report.machine import describe
from pytest_onnxdet.report.records import OUTCOMES, Record, in_order


@dataclass(frozen=True)
class Summary:
    """What every renderer draws, in this order.

    Attributes:
        verdict: one sentence.
        state: ``passed``, ``failed``, or ``skipped`` where nothing was verified.
        remarks: sentences that qualify the verdict.
        environment: one line.
        tables: those with ``detail`` only in the files.
        failures, known, skipped: the numbered reasons.
        records: all of them, sorted.
    """

    verdict: str
    state: str
    remarks: tuple[str, ...]
    environment: str
    tables: tuple[Table, ...]
    failures: tuple[Note, ...]
    known: tuple[Note, ...]
    skipped: tuple[Note, ...]
    records: tuple[Record, ...]


def summarize(records: Iterable[Record], environment: Mapping[str, Any]) -> Summary:
    """Builds the report of a run."""
    ordered = in_order(records)
    notes = Notes(ordered)
    verdict, state = _verdict(ordered)
    checked, tested = mutants.split(ordered)
    made = [
        *tables.support(checked, notes),
        tables.results(checked, notes),
        figures.latency(checked, notes),
        figures.builds(checked, notes),
        *mutants.tables(tested, notes),
        *figures.details(checked, notes),
    ]
    return Summary(
        verdict=verdict,
        state=state,
        remarks=_remarks(ordered),
        environment=describe(environment),
        tables=tuple(table for table in made if table is not None),
        failures=tuple(notes.with_outcome("error", "failed")),
        known=tuple(notes.with_outcome("xfailed")),
        skipped=tuple(notes.with_outcome("skipped")),
        records=tuple(ordered),
    )


def _verdict(records: list[Record]) -> tuple[str, str]:
    if not records:
        return "Nothing was verified: no check ran.", "skipped"
    counts = Counter(r.outcome for r in records)
    said = ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o])
    cases = len({(r.profile, r.id, r.precision, r.device) for r in records})
    text = f"{many(len(records), 'check')} of {many(cases, 'case')}: {said}."
    if counts["failed"] or counts["error"]:
        return text, "failed"
    if not counts["passed"]:
        return f"Nothing was verified: no check passed. {text}", "skipped"
    return text, "passed"


def _remarks(records: list[Record]) -> tuple[str, ...]:
    remarks = []
    profiles = sorted({r.profile for r in records})
    if profiles:
        remarks.append(f"Profile: {', '.join(profiles)}.")
    checked, tested = mutants.split(records)
    if tested:
        remarks.append(mutants.sentence(tested))
    compared = [r for r in checked if r.check in ("parity", "accuracy") and r.outcome != "skipped"]
    if checked and not compared:
        remarks.append("No detection was compared with PyTorch: neither parity nor accuracy ran.")
    if furthest := figures.worst_parity(records):
        remarks.append(furthest)
    if tied := figures.ties(records):
        remarks.append(tied)
    if unreached := figures.unreached(records):
        remarks.append(unreached)
    remarks += figures.data_notes(records)
    return tuple(remarks)
