"""A whole report before it is drawn: the verdict, the tables, and the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_onnxdet.report import figures, mutants, tables
from pytest_onnxdet.report.layout import Note, Notes, Table, many
from pytest_onnxdet.report.machine import describe
from pytest_onnxdet.report.records import BAD, OUTCOMES, Record, in_order

#: So many notes on data are brief.
_NOTES = 2


@dataclass(frozen=True)
class Summary:
    """What every renderer draws, in this order.

    Attributes:
        verdict: one sentence.
        state: ``passed``, ``failed``, or ``skipped`` where nothing was verified.
        remarks: sentences that qualify the verdict.
        environment: one line.
        machine: a shorter one, of the profiles, what runs detectors and on what.
        tables: those with ``detail`` only in the files.
        brief: the remarks in fewer words, for the terminal.
        ran: the tables of what ran alone, for the terminal.
        failures, known, skipped: the numbered reasons.
        absent: why backends that nobody asked for have no cases, a line each; of the remarks,
            too.
        records: all of them, sorted.
    """

    verdict: str
    state: str
    remarks: tuple[str, ...]
    environment: str
    machine: str
    tables: tuple[Table, ...]
    brief: tuple[str, ...]
    ran: tuple[Table, ...]
    failures: tuple[Note, ...]
    known: tuple[Note, ...]
    skipped: tuple[Note, ...]
    absent: tuple[str, ...]
    records: tuple[Record, ...]


def summarize(
    records: Iterable[Record],
    environment: Mapping[str, Any],
    absent: Mapping[str, str] | None = None,
) -> Summary:
    """Builds the report of a run.

    Args:
        records: any.
        environment: as :func:`~pytest_onnxdet.report.environment` returns it.
        absent: by name, why a backend has no cases.
    """
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
    without = tuple(f"Without {name}: {why}" for name, why in (absent or {}).items())
    done = [r for r in checked if r.outcome != "skipped"]
    ran = [
        *tables.support(done, notes),
        tables.results(done, notes, documented=False),
        figures.latency(done, notes),
        figures.builds(done, notes),
    ]
    profiles = ", ".join(sorted({r.profile for r in ordered}))
    return Summary(
        verdict=verdict,
        state=state,
        remarks=(*_remarks(ordered), *without),
        brief=_remarks(ordered, brief=True),
        environment=describe(environment),
        machine=f"Profile: {profiles or 'none'}. {describe(environment, brief=True)}",
        tables=tuple(table for table in made if table is not None),
        ran=tuple(table for table in ran if table is not None),
        failures=tuple(notes.with_outcome(*BAD)),
        known=tuple(notes.with_outcome("xfailed")),
        skipped=tuple(notes.with_outcome("skipped")),
        absent=without,
        records=tuple(ordered),
    )


def _verdict(records: list[Record]) -> tuple[str, str]:
    if not records:
        return "Nothing was verified: no check ran.", "skipped"
    counts = Counter(r.outcome for r in records)
    said = ", ".join(f"{counts[o]} {o}" for o in OUTCOMES if counts[o])
    cases = len({(r.profile, r.id, r.precision, r.device) for r in records})
    text = f"{many(len(records), 'check')} of {many(cases, 'case')}: {said}."
    if any(counts[outcome] for outcome in BAD):
        return text, "failed"
    if not counts["passed"]:
        return f"Nothing was verified: no check passed. {text}", "skipped"
    return text, "passed"


def _remarks(records: list[Record], brief: bool = False) -> tuple[str, ...]:
    remarks = []
    profiles = sorted({r.profile for r in records})
    if profiles and not brief:
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
    if unreached := figures.unreached(records, most=3 if brief else None):
        remarks.append(unreached)
    notes = figures.data_notes(records)
    remarks += notes[:_NOTES] if brief else notes
    if brief and len(notes) > _NOTES:
        remarks.append(f"Data: {many(len(notes) - _NOTES, 'more note')} in the report.")
    return tuple(remarks)
