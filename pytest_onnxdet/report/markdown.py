"""report.md: the tables as GitHub and GitLab show them."""

from __future__ import annotations

import re

from pytest_onnxdet.report.layout import SIGNS, Cell, Note, Table, clean, identified
from pytest_onnxdet.report.summary import Summary

_MAX_LINES = 20
_LEGEND = "✓ passed, ✗ failed, skip: skipped, xfail: known failure, –: not run."


def render(summary: Summary) -> str:
    """The whole file."""
    return "\n\n".join(parts(summary)) + "\n"


def parts(summary: Summary) -> list[str]:
    """The file's paragraphs, headings with what stands below them, and tables, in order."""
    parts = ["# pytest-onnxdet report", f"**{escape(summary.verdict)}**"]
    parts += [escape(remark) for remark in summary.remarks]
    if summary.environment:
        parts.append(escape(summary.environment))
    if any(cell.marks for table in summary.tables for row in table.rows for cell in row):
        parts.append(_LEGEND)
    for table in summary.tables:
        if not table.detail:
            parts.append(f"## {escape(table.title)}\n\n{render_table(table)}")
    for title, notes in (
        ("Failures", summary.failures),
        ("Known failures", summary.known),
        ("Not run", summary.skipped),
    ):
        if notes:
            first, *others = map(_note, notes)
            parts += [f"## {title}\n\n{first}", *others]
    for table in summary.tables:
        if table.detail:
            title = escape(table.title)
            inner = render_table(table)
            parts.append(f"<details>\n<summary>{title}</summary>\n\n{inner}\n\n</details>")
    return parts


def render_table(table: Table) -> str:
    """One table and its remarks."""
    remarks = [escape(remark) for remark in table.remarks]
    if not table.columns:
        return "\n\n".join(remarks)
    right = [
        bool(table.rows) and all(row[i].figure for row in table.rows)
        for i in range(len(table.columns))
    ]
    lines = [
        _row([escape(name) for name in table.columns]),
        _row(["--:" if r else "---" for r in right]),
        *(_row([_cell(cell) for cell in row]) for row in table.rows),
    ]
    text = "\n".join(lines)
    return "\n\n".join([text, *remarks])


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table: pipes, HTML and emphasis defused."""
    one_line = " ".join(clean(text).split())
    one_line = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    one_line = re.sub(r"([\\`*|~\[\]])", r"\\\1", one_line)
    # Within a word an underscore is only itself; a name like mask_rcnn stays readable.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", one_line)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    text = " ".join(SIGNS[o] for _, o in cell.marks) if cell.marks else escape(cell.text)
    return f"{text} {escape(cell.references)}".strip()


def _note(note: Note) -> str:
    if note.bad:
        head = ", ".join(f"{escape(identified(r))} {escape(r.check)}" for r in note.records)
    else:
        head = escape(note.subject)
    head += note.kind
    reason = note.lines(_MAX_LINES)
    longest = max((len(run) for line in reason for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"\\[{note.number}\\] {head}", "", f"{fence}text", *reason, fence])
