"""The report for a terminal: plain ASCII signs, at most as wide as the terminal.

Where all is well it is short: tables of what ran while they fit, else a sentence for each target
and the models' AP. Where something failed it says what: rows of the models that are concerned, and
every failure.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_onnxdet.report import brief
from pytest_onnxdet.report.layout import WORDS, Cell, Note, Table, clean, identified
from pytest_onnxdet.report.mutants import split
from pytest_onnxdet.report.records import BAD, Record
from pytest_onnxdet.report.summary import Summary, summarize
from pytest_onnxdet.report.tables import RESULTS

Line = tuple[str, dict[str, bool]]

#: The worst comes first.
_COLOURS: dict[str, dict[str, bool]] = {
    **{outcome: {"red": True} for outcome in BAD},
    "skipped": {"yellow": True},
    "xfailed": {"yellow": True},
    "passed": {"green": True},
}
_GAP = "  "
#: How long the end of a run may be in which all is well, pytest's own lines included.
LINES = 25
_LEGEND = "ok passed, FAIL failed, ERROR broken, skip skipped, xfail known failure, - not run"


def summary_lines(
    records: Iterable[Record],
    environment: Mapping[str, Any],
    width: int | None = None,
    absent: Mapping[str, str] | None = None,
    room: int = LINES,
) -> list[Line]:
    """The lines of the terminal summary, each with its markup for pytest's terminal writer.

    Args:
        records: any.
        environment: as :func:`~pytest_onnxdet.report.environment` returns it.
        width: columns; by default the terminal's, between 80 and 120.
        absent: by name, why a backend has no cases.
        room: the most lines where all is well.
    """
    wide = width or min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
    summary = summarize(records, environment, absent)
    if summary.failures:
        return _failed(summary, wide)
    end = [*_notes("Known failures", summary.known, wide, 1), *_not_run(summary, wide)]
    lines = [*_head(summary, wide, summary.brief), *_plain(summary.machine, wide)]
    shown = _tables(summary.ran, wide)
    if len(lines) + len(shown) + len(end) <= room:
        return lines + shown + end
    lines += _targets(summary, wide)
    shown = _tables([table for table in summary.ran if table.title == RESULTS], wide)
    if shown and len(lines) + len(shown) + len(end) <= room:
        return lines + shown + end
    done = [r for r in split(summary.records)[0] if r.outcome != "skipped"]
    heading = _plain(brief.ap_heading(done), wide)
    rows = brief.ap_rows(done, wide, max(room - len(lines) - len(heading) - len(end), 1))
    return lines + (heading + [(row, {}) for row in rows] if rows else []) + end


def _failed(summary: Summary, width: int) -> list[Line]:
    """A run in which something failed: its models' rows, and why."""
    remarks = [remark for remark in summary.remarks if remark not in summary.absent]
    lines = [*_head(summary, width, remarks), *_plain(summary.environment, width)]
    lines += _targets(summary, width)
    concerned = []
    for table in summary.ran:
        bad = tuple(row for row in table.rows if any(cell.state in BAD for cell in row))
        concerned += [replace(table, rows=bad)] if bad else []
    lines += _tables(concerned, width)
    lines += _notes("Failures", summary.failures, width, 3)
    return [*lines, *_notes("Known failures", summary.known, width, 1), *_not_run(summary, width)]


def _head(summary: Summary, width: int, remarks: Iterable[str]) -> list[Line]:
    """The verdict and what qualifies it."""
    markup = {"red": True} if not summary.records else _COLOURS[summary.state]
    lines: list[Line] = [
        (text, {**markup, "bold": True}) for text in _wrapped(summary.verdict, width)
    ]
    for remark in remarks:
        lines += _plain(remark, width)
    return lines


def _targets(summary: Summary, width: int) -> list[Line]:
    done = [r for r in split(summary.records)[0] if r.outcome != "skipped"]
    return [line for text in brief.target_lines(done) for line in _plain(text, width)]


def _tables(tables: Sequence[Table], width: int) -> list[Line]:
    lines: list[Line] = []
    for table in tables:
        lines += [("", {}), *table_lines(table, width)]
    if any(cell.marks for table in tables for row in table.rows for cell in row):
        lines += [("", {}), *_plain(_LEGEND, width)]
    return lines


def _notes(title: str, notes: Sequence[Note], width: int, limit: int) -> list[Line]:
    lines: list[Line] = [("", {}), (title, {"bold": True})] if notes else []
    for note in notes:
        lines += _note_lines(note, width, limit)
    return lines


def _not_run(summary: Summary, width: int) -> list[Line]:
    """A line for each reason why something did not run."""
    lines: list[Line] = []
    for note in summary.skipped:
        reason = " ".join(clean(note.reason).split())
        lines += _plain(f"[{note.number}] Not run: {note.subject}: {reason}", width)
    for text in summary.absent:
        lines += _plain(text, width)
    return lines


def _plain(text: str, width: int) -> list[Line]:
    return [(line, {}) for line in _wrapped(text, width)]


def table_lines(table: Table, width: int) -> list[Line]:
    """A table's title, heading, rows and remarks; too wide, it is broken into blocks of columns."""
    lines: list[Line] = [(text, {"bold": True}) for text in _wrapped(table.title, width)]
    marks = _mark_widths(table)
    heads = [_heading(name) for name in table.columns]
    texts: list[list[str]] = [[] for _ in table.rows]
    widths: list[int] = []
    room = width * 2 // 5  # for the first column; the others get what the keys leave
    for i in range(len(table.columns)):
        if i == table.keys:
            room = max(width - sum(widths) - len(_GAP) * i, 10)
        for line, row in zip(texts, table.rows, strict=True):
            line.append(_text(row[i], marks[i], room))
        widths.append(max(len(text) for text in [*heads[i], *(line[i] for line in texts)]))
    for block in _blocks(widths, table.keys, width):
        depth = max(len(heads[i]) for i in block)
        for level in range(depth):
            parts = []
            for i in block:
                padded = [*[""] * (depth - len(heads[i])), *heads[i]]
                right = bool(table.rows) and all(row[i].figure for row in table.rows)
                parts.append(padded[level].rjust(widths[i]) if right else padded[level])
            lines.append((_joined(parts, widths, block), {}))
        lines.append((_GAP.join("-" * widths[i] for i in block), {}))
        for row, line in zip(table.rows, texts, strict=True):
            parts = [line[i].rjust(widths[i]) if row[i].figure else line[i] for i in block]
            lines.append((_joined(parts, widths, block), _colour(row[i] for i in block)))
    for remark in table.remarks:
        lines += [(text, {}) for text in _wrapped(remark, width)]
    return lines


def _colour(cells: Iterable[Cell]) -> dict[str, bool]:
    states = {cell.state for cell in cells}
    for state in _COLOURS:
        if state in states:
            return _COLOURS[state]
    return {}


def _mark_widths(table: Table) -> list[list[int]]:
    """For each column the width of each check's sign, so that the signs stand in columns too."""
    widths: list[list[int]] = []
    for i in range(len(table.columns)):
        marked = [row[i].marks for row in table.rows if row[i].marks]
        count = max((len(m) for m in marked), default=0)
        widths.append([max(len(WORDS[m[k][1]]) for m in marked) for k in range(count)])
    return widths


def _text(cell: Cell, widths: Sequence[int], room: int) -> str:
    if cell.marks:
        signs = zip(cell.marks, widths, strict=True)
        return " ".join(WORDS[outcome].ljust(w) for (_, outcome), w in signs).rstrip()
    text = " ".join(cell.text.split())
    room -= len(cell.references) + 1 if cell.references else 0
    if len(text) > room:  # the middle goes: long names differ at their ends
        tail = max(room // 3, 1)
        text = f"{text[: max(room - tail - 2, 1)]}..{text[-tail:]}"
    return f"{text} {cell.references}".strip()


def _heading(name: str) -> list[str]:
    return textwrap.wrap(name, 14, break_long_words=False, break_on_hyphens=False) or [""]


def _blocks(widths: Sequence[int], keys: int, width: int) -> list[list[int]]:
    if not widths:
        return []
    first = list(range(keys))
    taken = sum(widths[i] + len(_GAP) for i in first)
    blocks: list[list[int]] = []
    room = 0
    for i in range(keys, len(widths)):
        if not blocks or widths[i] + len(_GAP) > room:
            blocks.append(list(first))
            room = width - taken + len(_GAP)
        blocks[-1].append(i)
        room -= widths[i] + len(_GAP)
    return blocks or [first]


def _joined(parts: Sequence[str], widths: Sequence[int], block: Sequence[int]) -> str:
    padded = [part.ljust(widths[i]) for part, i in zip(parts, block, strict=True)]
    return _GAP.join(padded).rstrip()


def _note_lines(note: Note, width: int, limit: int) -> list[Line]:
    start = f"[{note.number}] "
    failed = note.bad
    if failed:
        cases = [f"{identified(r)} {r.check}" for r in note.records]
        more = f" and {len(cases) - 4} more" if len(cases) > 4 else ""
        head = ", ".join(cases[:4]) + more
        head += note.kind
    else:
        head = note.subject
    lines: list[Line] = []
    markup = _COLOURS[note.outcome] if failed else {}
    for text in _wrapped(start + clean(head) + (":" if not failed else ""), width, " " * 4):
        lines.append((text, dict(markup)))
    for reason in note.lines(limit):
        shown = reason if len(reason) <= 2 * (width - 4) else f"{reason[: 2 * (width - 4) - 3]}..."
        lines += [(text, {}) for text in _wrapped(f"    {shown.strip()}", width, " " * 4)]
    return lines


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(clean(text), width, subsequent_indent=indent, break_on_hyphens=False)
