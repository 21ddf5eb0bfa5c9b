"""What the terminal, Markdown and HTML reports share: cells, tables, labels and numbered notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_onnxdet.core.vocabulary import STRUCTURE
from pytest_onnxdet.report.records import BAD, Record

NOT_RUN = "not run"
#: Outcomes in words that any terminal shows, and the same as signs for Markdown and HTML.
WORDS = {
    "passed": "ok",
    "failed": "FAIL",
    "error": "ERROR",
    "crashed": "CRASH",
    "timeout": "TIMEOUT",
    "skipped": "skip",
    "xfailed": "xfail",
    NOT_RUN: "-",
}
SIGNS = {
    "passed": "✓",
    "failed": "✗ FAIL",
    "error": "✗ ERROR",
    "crashed": "✗ CRASH",
    "timeout": "✗ TIMEOUT",
    "skipped": "skip",
    "xfailed": "xfail",
    NOT_RUN: "–",
}
#: Backends as users of the documented table know them, in its order; others come after.
BACKENDS = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
_NAMES = {
    **BACKENDS,
    "pytorch": "PyTorch (lowered)",
    "tensorrt_rtx": "TensorRT RTX",
    "onnxruntime[tensorrt-lowering]": "ONNX Runtime [tensorrt-lowering]",
}
STRUCTURE_REMARK = (
    "(structure): structure check with random weights. It shows that graph and PyTorch agree, "
    "not what a trained model reaches."
)


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says; empty where ``marks`` say it.
        state: an outcome, :data:`NOT_RUN`, or empty for a cell that judges nothing.
        notes: numbers of the notes that give its reasons.
        marks: (check, outcome) pairs in the table's order of checks.
        figure: a number, set right-aligned.
    """

    text: str = ""
    state: str = ""
    notes: tuple[int, ...] = ()
    marks: tuple[tuple[str, str], ...] = ()
    figure: bool = False

    @property
    def references(self) -> str:
        """The notes' numbers, consecutive ones drawn together: ``[1-3,7]``; empty without any."""
        shown = spans(self.notes)
        if shown.count(",") > 2:
            shown = ",".join(shown.split(",")[:3]) + ",.."
        return f"[{shown}]" if shown else ""


@dataclass(frozen=True)
class Table:
    """A table that every renderer can draw.

    Attributes:
        title: what it shows.
        columns: one heading for each column; without any, only the remarks are shown.
        rows: as many cells each as there are columns.
        keys: so many leading columns name the row; a renderer that breaks a table repeats them.
        remarks: sentences below it.
        detail: left to the files, not shown in the terminal.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keys: int = 1
    remarks: tuple[str, ...] = ()
    detail: bool = False


@dataclass(frozen=True)
class Note:
    """A reason, and all the records that share it."""

    number: int
    reason: str
    records: tuple[Record, ...]

    @property
    def outcome(self) -> str:
        """The outcome that the records share."""
        return self.records[0].outcome

    @property
    def bad(self) -> bool:
        """Whether the outcome fails a run."""
        return self.outcome in BAD

    @property
    def kind(self) -> str:
        """How it failed where it is no plain failure, as `` (error)``; else empty."""
        return f" ({self.outcome})" if self.bad and self.outcome != "failed" else ""

    def lines(self, limit: int) -> list[str]:
        """The reason's first lines; a last one says how many were left out."""
        lines = [line for line in clean(self.reason).splitlines() if line.strip()]
        if len(lines) <= limit:
            return lines
        return [*lines[:limit], f"... {len(lines) - limit} more lines in report.json"]

    @property
    def subject(self) -> str:
        """What the records have in common: their number, checks and backends."""
        count = len(self.records)
        checks = ", ".join(dict.fromkeys(r.check for r in self.records))
        backends = ", ".join(dict.fromkeys(r.backend for r in self.records))
        models = list(dict.fromkeys(named(r) for r in self.records))
        some = ", ".join(models) if len(models) <= 3 else f"{len(models)} models"
        return f"{count} {'check' if count == 1 else 'checks'} ({checks}; {backends}; {some})"


class Notes:
    """Numbers the reasons of a report: failures first, then known failures, then what was skipped.

    Records with the same outcome and reason share a note, so a missing library is one line.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        groups: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            if record.outcome != "passed":
                groups.setdefault(_reason_key(record), []).append(record)
        rank = {"xfailed": 1, "skipped": 2}
        ordered = sorted(groups.items(), key=lambda item: rank.get(item[0][0], 0))
        self._all = [
            Note(number, key[1], tuple(group)) for number, (key, group) in enumerate(ordered, 1)
        ]
        self._numbers = {key: number for number, (key, _) in enumerate(ordered, 1)}

    def of(self, records: Iterable[Record]) -> tuple[int, ...]:
        """The numbers of the reasons of these records; passed ones have none."""
        numbers = {self._numbers[_reason_key(r)] for r in records if r.outcome != "passed"}
        return tuple(sorted(numbers))

    def with_outcome(self, *outcomes: str) -> list[Note]:
        """The notes of these outcomes, in the order of their numbers."""
        return [note for note in self._all if note.outcome in outcomes]


@dataclass(frozen=True, order=True)
class Target:
    """What ran a graph: a column of the results."""

    backend: str
    device: str
    precision: str

    @classmethod
    def of(cls, record: Record) -> Target:
        """The target of a record."""
        return cls(record.backend, record.device, record.precision)


class Labels:
    """Short names for models and targets: an axis is spelled out where two differ in it."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._profiles = {r.profile for r in records} - {STRUCTURE}
        self._devices: dict[str, set[str]] = {}
        for record in records:
            self._devices.setdefault(record.backend, set()).add(record.device)

    def model(self, record: Record) -> str:
        """The model's name, with its profile where the report has several or it is structure."""
        if record.profile == STRUCTURE or len(self._profiles) > 1:
            return f"{record.model} ({record.profile})"
        return record.model

    def target(self, target: Target) -> str:
        """The backend's name, with device and precision where they are not the only or plain."""
        name = _NAMES.get(target.backend, target.backend)
        if len(self._devices.get(target.backend, ())) > 1:
            name += f" {target.device}"
        return name if target.precision in ("fp32", "") else f"{name} {target.precision}"

    @staticmethod
    def remarks(records: Iterable[Record]) -> tuple[str, ...]:
        """The sentence that belongs under a table with structure checks in it."""
        return (STRUCTURE_REMARK,) if any(r.profile == STRUCTURE for r in records) else ()


def named(record: Record) -> str:
    """The model with the label of a structure check, for lists outside the tables."""
    return f"{record.model} (structure)" if record.profile == STRUCTURE else record.model


def identified(record: Record) -> str:
    """The case's id with the label of a structure check."""
    return f"{record.id} (structure)" if record.profile == STRUCTURE else record.id


def clean(text: str) -> str:
    """Text without colour codes and other control characters; line breaks stay."""
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text.replace("\r\n", "\n"))
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text)


def spans(numbers: Sequence[int]) -> str:
    """``1-3,7`` of 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def many(count: float, thing: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count:.0f} {thing}" if count == 1 else f"{count:.0f} {thing}s"


def spread(values: Sequence[float], spec: str) -> str:
    """One figure, or the range ``61.1-61.2`` where the values differ as shown."""
    low, high = format(min(values), spec), format(max(values), spec)
    return low if low == high else f"{low}-{high}"


def _reason_key(record: Record) -> tuple[str, str]:
    return record.outcome, record.reason.strip() or "no reason was given"
