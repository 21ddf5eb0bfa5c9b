"""The two tables that users of the documented tools know: what is supported, and its AP."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from pytest_onnxdet.core.vocabulary import FULL
from pytest_onnxdet.models.zoo import DOCUMENTED, TUTORIAL
from pytest_onnxdet.report.layout import (
    BACKENDS,
    NOT_RUN,
    WORDS,
    Cell,
    Labels,
    Notes,
    Table,
    Target,
    clean,
    spread,
)
from pytest_onnxdet.report.records import BAD, WORST_FIRST, Record, check_order, shape_order, worst

Key = TypeVar("Key", bound=Hashable)

_SOURCE = f"Documented: {TUTORIAL}; of FSAF, SSD and YOLOv3 it tested older checkpoints."
RESULTS = "Results: AP x 100"
METRICS = {"bbox_mAP": "box AP", "segm_mAP": "mask AP"}


def support(records: Sequence[Record], notes: Notes) -> list[Table]:
    """For each backend a table of model by shape mode and batch, each check's outcome in a cell."""
    labels = Labels(records)
    places = sorted({(r.shape, r.batch) for r in records}, key=lambda p: (shape_order(p[0]), p[1]))
    tables = []
    for target in targets(records):
        own = [r for r in records if Target.of(r) == target]
        if not own:
            continue
        name = f"Support: {clean(target.backend)} on {target.device}, {target.precision}"
        checks = sorted({r.check for r in own}, key=check_order)
        if all(r.outcome == "skipped" for r in own):
            reasons = Cell(notes=notes.of(own)).references
            tables.append(Table(name, (), (), remarks=(f"Not run: {len(own)} checks {reasons}.",)))
            continue
        rows = []
        for model, group in by(own, labels.model).items():
            cells = [Cell(clean(model), notes=notes.of(group))]
            for place in places:
                in_place = [r for r in group if (r.shape, r.batch) == place]
                marks = tuple((c, _outcome(r for r in in_place if r.check == c)) for c in checks)
                states = [outcome for _, outcome in marks if outcome != NOT_RUN]
                cells.append(Cell(state=worst(states) if states else NOT_RUN, marks=marks))
            rows.append(tuple(cells))
        columns = ("model", *(f"{shape} b{batch}" for shape, batch in places))
        each = f"In each cell: {', '.join(checks)}."
        tables.append(Table(name, columns, tuple(rows), remarks=(each, *labels.remarks(own))))
    return tables


def results(records: Sequence[Record], notes: Notes, documented: bool = True) -> Table | None:
    """Model by metric: AP times 100 of PyTorch and of each backend; None without accuracy checks.

    A row stands for all cases of a model. Where they differ it shows the range, and of the
    differences to PyTorch always the largest, so that no case hides behind another.

    Args:
        records: any.
        notes: the report's reasons.
        documented: whether the documented table's backends and the models without an accuracy
            check are there, too.
    """
    measured = [r for r in records if r.check == "accuracy"]
    if not measured:
        return None
    labels = Labels(records)
    columns = targets(measured, documented)
    # The documented figure of PyTorch, and of a backend after the last of its columns.
    last = {target.backend: target for target in columns if target.backend in BACKENDS}
    beside = dict.fromkeys(["", *last]) if any(r.profile == FULL for r in measured) else {}
    rows = []
    for model, all_records in by(records if documented else measured, labels.model).items():
        checked = [r for r in all_records if r.check == "accuracy"]
        for metric in _metrics(checked):
            eager = [v for r in checked if (v := r.figure(f"{metric}_torch")) is not None]
            cells = [Cell(spread([v * 100 for v in eager], ".1f")) if eager else nothing()]
            cells += [_documented(all_records[0], metric, "")] if "" in beside else []
            for target in columns:
                group = [r for r in checked if Target.of(r) == target]
                cells.append(_accuracy(group, metric, notes))
                if target.backend in beside and last[target.backend] == target:
                    cells.append(_documented(all_records[0], metric, target.backend))
            name = METRICS.get(metric, metric)
            rows.append((Cell(clean(model)), Cell(clean(name)), *cells))
    headings = ["model", "metric", "PyTorch"]
    headings += ["PyTorch, documented"] if "" in beside else []
    for target in columns:
        headings.append(labels.target(target))
        if target.backend in beside and last[target.backend] == target:
            headings.append(f"{BACKENDS[target.backend]}, documented")
    remarks = [
        "In brackets: the largest difference to PyTorch on the same images and batches.",
        *([_SOURCE] if beside else []),
        *labels.remarks(records),
    ]
    return Table(RESULTS, tuple(headings), tuple(rows), keys=2, remarks=tuple(remarks))


def targets(records: Iterable[Record], documented: bool = False) -> list[Target]:
    """The targets of these records, those of the documented table first.

    Args:
        records: any.
        documented: whether the documented table's backends have a column even without a record.
    """
    columns = {Target.of(r) for r in records}
    if documented:
        missing = [b for b in BACKENDS if not any(t.backend == b for t in columns)]
        columns |= {Target(backend, "", "") for backend in missing}
    known = list(BACKENDS)
    return sorted(
        columns, key=lambda t: (known.index(t.backend) if t.backend in known else len(known), t)
    )


def by(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """The records grouped, groups in the order of their first record."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def nothing(numbers: tuple[int, ...] = ()) -> Cell:
    """The cell of what did not run."""
    return Cell(NOT_RUN, NOT_RUN, numbers)


def judged(figures: str, group: Sequence[Record], notes: Notes) -> Cell:
    """A cell of a group's figures that also says what failed and how much of it ran.

    Args:
        figures: what was measured, empty where nothing was.
        group: the records that meet in this cell.
        notes: the report's reasons.
    """
    numbers = notes.of(group)
    outcomes = [r.outcome for r in group]
    ran = sum(o != "skipped" for o in outcomes)
    if not ran:
        return nothing(numbers)
    parts = [figures] if figures else []
    said = (*BAD, "xfailed")
    parts += [WORDS[o] for o in WORST_FIRST if o in said and o in outcomes]
    if not parts:
        parts = ["no figure"]
    if ran < len(group):
        parts.append(f"{ran} of {len(group)} run")
    return Cell(" ".join(parts), worst(outcomes), numbers)


def _outcome(records: Iterable[Record]) -> str:
    outcomes = [r.outcome for r in records]
    return worst(outcomes) if outcomes else NOT_RUN


def _metrics(records: Iterable[Record]) -> list[str]:
    names = {name for r in records for name in r.metrics}
    evaluated = {name.removesuffix("_torch") for name in names if name.endswith("_torch")}
    known = [m for m in METRICS if m in evaluated]
    return [*known, *sorted(evaluated - set(known))] or ["bbox_mAP"]


def _documented(record: Record, metric: str, backend: str) -> Cell:
    """What the tutorial has for a full-size model: by PyTorch, or by a backend."""
    if record.profile != FULL:
        return Cell()
    figures = DOCUMENTED.get(record.model, {}).get(metric.removesuffix("_mAP"))
    value = figures[("", *BACKENDS).index(backend)] if figures else None
    return Cell("none" if value is None else f"{value:.1f}")


def _accuracy(group: Sequence[Record], metric: str, notes: Notes) -> Cell:
    values: list[float] = []
    differences: list[float] = []
    for record in group:
        value, torch = record.figure(metric), record.figure(f"{metric}_torch")
        if value is None:
            continue
        values.append(value * 100)
        difference = record.figure(f"{metric}_delta")
        if difference is None and torch is not None:
            difference = value - torch
        if difference is not None:
            differences.append(difference * 100)
    figures = spread(values, ".1f") if values else ""
    if differences:
        largest: float = max(differences, key=abs)
        # Adding zero turns the -0.0 of a rounded tiny difference into 0.0.
        figures += f" ({round(largest, 2) + 0.0:+.2f})"
    return judged(figures, group, notes)
