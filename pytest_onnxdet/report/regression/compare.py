"""Compares a run with an earlier report.json: what moved, and whether any of it is a regression.

AP and parity are compared by tolerance. Latency is compared by the ratio to PyTorch within each
run, so that a slower machine is no regression, and never more finely than the noise of the two
runs allows: the smallest slow-down that counts is stated with the result.

What passed in the baseline and belongs to this run has to pass again, on the same device. So a
runtime or a GPU that is no longer there is a regression, also where its tests are merely skipped.
Only latency may be skipped, where the case's detections were compared: it is not measured beside
other processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_onnxdet.report.figures import speedup
from pytest_onnxdet.report.files import read_report
from pytest_onnxdet.report.layout import Cell, Table, clean, identified
from pytest_onnxdet.report.records import Record, in_order, worst
from pytest_onnxdet.report.regression import rules
from pytest_onnxdet.report.regression.noise import FALSE_ALARM
from pytest_onnxdet.report.regression.rules import Moved, Tolerances
from pytest_onnxdet.report.terminal import Line, table_lines

_MAX_ABSENT = 20
_STATES = {"FAIL": "failed", "not compared": "skipped", "moved": ""}

#: The checks that open a session. What the others find does not depend on a device.
_RUNNING = ("parity", "accuracy", "latency")

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two reports.

    Attributes:
        compared: the number of checks that ran on both sides, on the same device.
        moved: regressions first.
        gone: checks of the baseline that this run has no record of.
        new: checks that the baseline has no record of.
        environment: what changed in versions and hardware, one sentence each.
        detectable: for every latency check compared, the smallest slow-down that counts
            (0.06 is 6 %); None where a run did not record its noise.
    """

    compared: int
    moved: tuple[Moved, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    environment: tuple[str, ...]
    detectable: Mapping[str, float | None]

    @property
    def regressions(self) -> tuple[Moved, ...]:
        """Those of ``moved`` that fail the comparison."""
        return tuple(row for row in self.moved if row.regressed)

    @property
    def ok(self) -> bool:
        """Whether something was compared and nothing regressed."""
        return self.compared > 0 and not self.regressions

    def table(self) -> Table:
        """What moved, with the noise, the absent cases and the environment as remarks."""
        rows = tuple(
            (
                Cell(clean(row.case)),
                Cell(row.check),
                Cell(row.figure),
                Cell(f"{row.before} -> {row.now}"),
                Cell(row.allowed),
                Cell(row.verdict, _STATES[row.verdict]),
            )
            for row in self.moved
        )
        columns = ("case", "check", "figure", "before -> now", "allowed", "verdict")
        remarks = [*self._noise(), *self.environment]
        for title, absent in (("Not in this run", self.gone), ("Not in the baseline", self.new)):
            if absent:
                more = len(absent) - _MAX_ABSENT
                listed = ", ".join(absent[:_MAX_ABSENT])
                listed += f" and {more} more" if more > 0 else ""
                remarks.append(f"{title} ({len(absent)}): {listed}.")
        return Table(
            self.verdict, columns if rows else (), rows, remarks=tuple(map(clean, remarks))
        )

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not self.compared:
            return "Baseline: nothing was compared, no check ran on both sides."
        skipped = sum(not row.compared for row in self.moved)
        others = len(self.moved) - len(self.regressions) - skipped
        parts = [
            f"{self.compared} checks compared",
            f"{len(self.regressions)} figures regressed",
            f"{others} moved otherwise",
        ]
        if skipped:
            parts.append(f"{skipped} not compared")
        return f"Baseline: {', '.join(parts)}."

    def lines(self, width: int = 100) -> list[Line]:
        """The table for pytest's terminal writer; without rows only its sentences."""
        (title, markup), *rest = table_lines(self.table(), width)
        return [(title, {**markup, "green" if self.ok else "red": True}), *rest]

    def _noise(self) -> list[str]:
        known = {case: value for case, value in self.detectable.items() if value is not None}
        remarks = []
        if known:
            middle = sorted(known.values())[len(known) // 2]
            case, largest = max(known.items(), key=lambda item: item[1])
            remarks.append(
                f"Latency: the smallest slow-down that counts is {middle:.1%} in the middle case "
                f"and {largest:.1%} in the noisiest ({case}). Of comparisons of two such reports, "
                f"noise within the runs exceeds it anywhere in about {FALSE_ALARM:.0%}."
            )
        if unknown := len(self.detectable) - len(known):
            remarks.append(
                f"{unknown} latency checks have no recorded noise: only the tolerance bounds them."
            )
        return remarks


def compare(
    now: Iterable[Record],
    before: Iterable[Record],
    tolerances: Tolerances | None = None,
    environments: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
) -> Comparison:
    """Compares two runs, case by case and check by check.

    What this run has no record of at all is listed only, since a run may be restricted on purpose.

    Args:
        now: this run's records.
        before: the baseline's.
        tolerances: how far figures may move; by default :class:`Tolerances`.
        environments: this run's and the baseline's, to list what changed.
    """
    tolerances = tolerances or Tolerances()
    pairs, gone, new = _paired(_by_key(now), _by_key(before))
    comparable = {_case(record) for record, _ in pairs if _has_run(record)}
    timed = sum(_timed(record, old) for record, old in pairs)
    moved: list[Moved] = []
    detectable: dict[str, float | None] = {}
    compared = 0
    for record, old in pairs:
        if _elsewhere(record, old):
            moved += rules.device(record, old)
            continue
        compared += "skipped" not in (record.outcome, old.outcome)
        excused = record.check == "latency" and _case(record) in comparable
        moved += rules.outcome(record, old, excused)
        if record.check == "accuracy":
            moved += rules.accuracy(record, old, tolerances)
        elif record.check == "parity":
            moved += rules.parity(record, old, tolerances)
        elif record.check == "latency":
            rows, smallest = rules.latency(record, old, tolerances, max(timed, 1))
            moved += rows
            if _timed(record, old):
                detectable[identified(record)] = smallest
    return Comparison(
        compared=compared,
        moved=tuple(sorted(moved, key=lambda row: (not row.regressed, not row.compared))),
        gone=tuple(map(_name, gone)),
        new=tuple(map(_name, new)),
        environment=_changes(*environments) if environments else (),
        detectable=detectable,
    )


def compare_with(
    path: Path,
    records: Iterable[Record],
    environment: Mapping[str, Any],
    tolerances: Tolerances | None = None,
) -> Comparison:
    """Compares a run with the report at ``path``.

    Raises:
        ReportError: the baseline is missing, corrupt or of another schema.
    """
    before_environment, before = read_report(path)
    return compare(records, before, tolerances, (environment, before_environment))


def _by_key(records: Iterable[Record]) -> dict[Key, dict[str, Record]]:
    """The records by check, and those by device."""
    by_key: dict[Key, dict[str, Record]] = {}
    for record in in_order(records):
        same = by_key.setdefault((*_case(record), record.check), {})
        first = same.get(record.device)
        if first is not None:  # a case checked by several tests: the worst, with all figures
            outcome = worst([first.outcome, record.outcome])
            base = first if first.outcome == outcome else record
            metrics = {**first.metrics, **record.metrics}
            record = Record(**{**vars(base), "metrics": metrics})
        same[record.device] = record
    return by_key


def _paired(
    here: Mapping[Key, Mapping[str, Record]], there: Mapping[Key, Mapping[str, Record]]
) -> tuple[list[tuple[Record, Record]], list[Record], list[Record]]:
    """Records of the same check, by preference of the same device; and what is left on each side.

    Where a check was skipped, nobody knows on which device it would have run.
    """
    pairs: list[tuple[Record, Record]] = []
    gone: list[Record] = []
    new: list[Record] = []
    for key in dict.fromkeys([*here, *there]):
        now, before = dict(here.get(key, {})), dict(there.get(key, {}))
        pairs += [(now.pop(name), before.pop(name)) for name in list(now) if name in before]
        while now and before:
            pairs.append((now.pop(next(iter(now))), before.pop(next(iter(before)))))
        gone += before.values()
        new += now.values()
    return pairs, gone, new


def _case(record: Record) -> tuple[str, str, str]:
    return record.profile, record.id, record.precision


def _has_run(record: Record) -> bool:
    """Whether detections of the case were compared with PyTorch's."""
    return record.check in ("parity", "accuracy") and record.outcome != "skipped"


def _elsewhere(now: Record, before: Record) -> bool:
    """Whether the two passed on different devices."""
    passed = now.outcome == before.outcome == "passed"
    return now.check in _RUNNING and now.device != before.device and passed


def _timed(now: Record, before: Record) -> bool:
    return (
        now.check == "latency"
        and not _elsewhere(now, before)
        and bool(speedup(now) and speedup(before))
    )


def _name(record: Record) -> str:
    return f"{identified(record)} {record.check}"


def _changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, ...]:
    new, old = _flat(now), _flat(before)
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    changed = [f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names]
    return (f"Changed since: {', '.join(changed)}.",) if changed else ()


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            prefix = "" if name == "versions" else f"{name} "
            flat.update({f"{prefix}{k}": str(v) for k, v in value.items()})
        elif isinstance(value, list):
            flat[name] = ", ".join(map(str, value)) or "none"
        else:
            flat[name] = str(value)
    return flat
