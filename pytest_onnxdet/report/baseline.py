"""Compares a run with an earlier report.json: what moved, and whether any of it is a regression.

AP and parity are compared by tolerance. Latency is compared by the ratio to PyTorch within each
run, so that a slower machine is no regression, and never more finely than the noise of the two
runs allows: the smallest slow-down that they could have shown is stated with the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_onnxdet.report import moves
from pytest_onnxdet.report.figures import speedup
from pytest_onnxdet.report.files import read_report
from pytest_onnxdet.report.layout import Cell, Table, clean, identified
from pytest_onnxdet.report.moves import Moved, Tolerances
from pytest_onnxdet.report.records import Record, in_order, worst
from pytest_onnxdet.report.terminal import Line, table_lines

_MOST_ABSENT = 20

Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Comparison:
    """What comparing two reports found.

    Attributes:
        compared: the number of checks that ran on both sides.
        moved: regressions first.
        gone: checks of the baseline that this run has no record of.
        new: checks that the baseline has no record of.
        environment: what changed in versions and hardware, one sentence each.
        detectable: for every latency check compared, the smallest slow-down that could be seen
            (0.02 is 2 %); None where a run did not record its noise.
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
                Cell("FAIL" if row.regressed else "moved", "failed" if row.regressed else ""),
            )
            for row in self.moved
        )
        columns = ("case", "check", "figure", "before -> now", "allowed", "verdict")
        remarks = [*self._noise(), *self.environment]
        for title, absent in (("Not in this run", self.gone), ("Not in the baseline", self.new)):
            if absent:
                more = len(absent) - _MOST_ABSENT
                listed = ", ".join(absent[:_MOST_ABSENT])
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
        counts = f"{self.compared} checks compared, {len(self.regressions)} figures regressed"
        others = len(self.moved) - len(self.regressions)
        return f"Baseline: {counts}, {others} moved otherwise."

    def lines(self, width: int = 100) -> list[Line]:
        """The table for pytest's terminal writer; without rows only its sentences."""
        (title, markup), *rest = table_lines(self.table(), width)
        return [(title, {**markup, "green" if self.ok else "red": True}), *rest]

    def _noise(self) -> list[str]:
        known = {case: value for case, value in self.detectable.items() if value is not None}
        found = []
        if known:
            middle = sorted(known.values())[len(known) // 2]
            case, most = max(known.items(), key=lambda item: item[1])
            found.append(
                f"Latency noise, from each run's rounds: the smallest slow-down that could be seen "
                f"is {middle:.1%} in the middle case and {most:.1%} in the noisiest ({case})."
            )
        if unknown := len(self.detectable) - len(known):
            found.append(
                f"{unknown} latency checks have no recorded noise: only the tolerance bounds them."
            )
        return found


def compare(
    now: Iterable[Record],
    before: Iterable[Record],
    tolerances: Tolerances | None = None,
    environments: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
) -> Comparison:
    """Compares two runs, case by case and check by check.

    A check that passed and now fails or is skipped is a regression; one that is not in this run
    at all is listed only, since a run may be restricted on purpose.

    Args:
        now: this run's records.
        before: the baseline's.
        tolerances: how far figures may move; by default :class:`Tolerances`.
        environments: this run's and the baseline's, to list what changed.
    """
    tolerances = tolerances or Tolerances()
    here, there = _by_key(now), _by_key(before)
    moved: list[Moved] = []
    detectable: dict[str, float | None] = {}
    compared = 0
    for key, record in here.items():
        old = there.get(key)
        if old is None:
            continue
        compared += "skipped" not in (record.outcome, old.outcome)
        moved += moves.outcome(record, old)
        if record.check == "accuracy":
            moved += moves.accuracy(record, old, tolerances)
        elif record.check == "parity":
            moved += moves.parity(record, old, tolerances)
        elif record.check == "latency":
            rows, limit = moves.latency(record, old, tolerances)
            moved += rows
            if speedup(record) and speedup(old):
                detectable[identified(record)] = limit
    return Comparison(
        compared=compared,
        moved=tuple(sorted(moved, key=lambda row: not row.regressed)),
        gone=tuple(_name(there[key]) for key in there if key not in here),
        new=tuple(_name(here[key]) for key in here if key not in there),
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


def _by_key(records: Iterable[Record]) -> dict[Key, Record]:
    found: dict[Key, Record] = {}
    for record in in_order(records):
        key = (record.profile, record.id, record.precision, record.device, record.check)
        if key in found:  # a case checked by several tests: the worst of them, with all figures
            first = found[key]
            outcome = worst([first.outcome, record.outcome])
            base = first if first.outcome == outcome else record
            metrics = {**first.metrics, **record.metrics}
            record = Record(**{**vars(base), "metrics": metrics})
        found[key] = record
    return found


def _name(record: Record) -> str:
    return f"{identified(record)} {record.check}"


def _changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, ...]:
    new, old = _flat(now), _flat(before)
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    changed = [f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in names]
    return (f"Changed since: {', '.join(changed)}.",) if changed else ()


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            prefix = "" if name == "versions" else f"{name} "
            found.update({f"{prefix}{k}": str(v) for k, v in value.items()})
        elif isinstance(value, list):
            found[name] = ", ".join(map(str, value)) or "none"
        else:
            found[name] = str(value)
    return found
