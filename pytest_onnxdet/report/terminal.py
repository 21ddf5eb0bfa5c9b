"""The report for a terminal: plain ASCII signs, at most as wide as the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_onnxdet.report.layout import WORDS, Cell, Note, Table, clean, identified
from pytest_onnxdet.report.records import Record
from pytest_onnxdet.report.summary import summarize

Line = tuple[str, dict[str, bool]]

_COLOURS: dict[str, dict[str, bool]] = {
    "passed": {"green": True},
    "failed": {"red": True},
    "error": {"red": True},
    "skipped": {"yellow": True},
    "xfailed": {"yellow": True},
}
_GAP = "  "
_LEGEND = "ok passed, FAIL failed, ERROR broken, skip skipped, xfail known failure, - not run"


def summary_lines(
    records: Iterable[Record], environment: Mapping[str, Any], width: int | None = None
) -> list[Line]:
    """The lines of the terminal summary, each with its markup for pytest's terminal writer.

    Args:
        records: any.
        environment: as :func:`~pytest_onnxdet.report.environment` returns it.
        width: columns; by default the terminal's, between 80 and 120.
    """
    wide = width or min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
    summary = summarize(records, environment)
    lines: list[Line] = []
    for text in _wrapped(summary.verdict, wide):
        lines.append((text, {**_COLOURS[summary.state], "bold": True}))
    if not summary.records:
        lines[0] = (lines[0][0], {"red": True, "bold": True})
    for remark in summary.remarks:
        lines += [(text, {}) for text in _wrapped(remark, wide)]
    lines += [(text, {}) for text in _wrapped(summary.environment, wide)]
    shown = [table for table in summary.tables if not table.detail]
    for table in shown:
        lines += [("", {}), *table_lines(table, wide)]
    if any(cell.marks for table in shown for row in table.rows for cell in row):
        lines += [("", {}), *((text, {}) for text in _wrapped(_LEGEND, wide))]
    for title, notes, limit in (
        ("Failures", summary.failures, 3),
        ("Known failures", summary.known, 1),
        ("Not run", summary.skipped, 1),
    ):
        if notes:
            lines += [("", {}), (title, {"bold": True})]
        for note in notes:
            lines += _note_lines(note, wide, limit)
    return lines


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
    for state in ("error", "failed", "skipped", "xfailed", "passed"):
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
    failed = note.outcome in ("failed", "error")
    if failed:
        cases = [f"{identified(r)} {r.check}" for r in note.records]
        more = f" and {len(cases) - 4} more" if len(cases) > 4 else ""
        head = ", ".join(cases[:4]) + more
        if note.outcome == "error":
            head += " (error)"
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
