"""Tables of figures: latency side by side, engines built ahead of time, each check's details."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_onnxdet.report.layout import (
    NOT_RUN,
    WORDS,
    Cell,
    Labels,
    Notes,
    Table,
    Target,
    clean,
    identified,
    many,
    spread,
)
from pytest_onnxdet.report.records import Record, worst
from pytest_onnxdet.report.tables import by, judged, nothing, targets

Column = tuple[str, Callable[[Record], str]]


def latency(records: Sequence[Record], notes: Notes) -> Table | None:
    """PyTorch and every backend side by side, a row for each model, shape mode and batch."""
    timed = [r for r in records if r.check == "latency"]
    if not timed:
        return None
    labels = Labels(records)
    columns = targets(timed)
    rows = []
    places = by(timed, lambda r: (labels.model(r), r.shape, r.batch))
    for (model, shape, batch), in_place in places.items():
        eager = [v for r in in_place if (v := r.figure("torch_ms")) is not None]
        torch = Cell(spread(eager, ".2f"), figure=True) if eager else nothing()
        cells = []
        for target in columns:
            group = [r for r in in_place if Target.of(r) == target]
            times = [v for r in group if (v := r.figure("ms")) is not None]
            ratios = [v for r in group if (v := speedup(r)) is not None]
            text = spread(times, ".2f") if times else ""
            text += f" (x{min(ratios):.2f})" if ratios else ""
            cells.append(judged(text, group, notes))
        rows.append((Cell(clean(model)), Cell(shape), Cell(f"b{batch}"), torch, *cells))
    headings = ("model", "shape", "batch", "PyTorch", *(labels.target(t) for t in columns))
    remarks = ["Milliseconds for a batch; in brackets the speed-up over PyTorch in the same run."]
    noises = [(n, r) for r in timed if (n := noise(r)) is not None]
    if noises:
        largest, record = max(noises, key=lambda pair: pair[0])
        remarks.append(
            f"Noise: interquartile range up to {largest:.1%} of the median ({identified(record)})."
        )
    return Table(
        "Latency", headings, tuple(rows), keys=3, remarks=(*remarks, *labels.remarks(timed))
    )


def builds(records: Sequence[Record], notes: Notes) -> Table | None:
    """Engines built ahead of time: seconds and size, a row for each model, shape mode and batch."""
    built = [r for r in records if r.check == "build"]
    if not built:
        return None
    labels = Labels(records)
    columns = targets(built)
    rows = []
    places = by(built, lambda r: (labels.model(r), r.shape, r.batch))
    for (model, shape, batch), in_place in places.items():
        cells = []
        for target in columns:
            group = [r for r in in_place if Target.of(r) == target]
            cells.append(judged(", ".join(_engine(r) for r in group if _engine(r)), group, notes))
        rows.append((Cell(clean(model)), Cell(shape), Cell(f"b{batch}"), *cells))
    headings = ("model", "shape", "batch", *(labels.target(t) for t in columns))
    remarks = (engines(built), *labels.remarks(built))
    return Table("Engines built ahead of time", headings, tuple(rows), keys=3, remarks=remarks)


def engines(records: Sequence[Record]) -> str:
    """One sentence on how many engines were built; empty without a build."""
    built = [r for r in records if r.check == "build"]
    if not built:
        return ""
    each = by(built, _one_engine)
    passed = sum(worst(r.outcome for r in same) == "passed" for same in each.values())
    counted = f"{passed} of {len(each)} engines built"
    return counted + ("; a dynamic one serves every batch size." if len(each) < len(built) else ".")


def details(records: Sequence[Record], notes: Notes) -> list[Table]:
    """For the files: each check's figures, case by case."""
    tables = []
    for check, (title, columns) in _DETAILS.items():
        checked = [r for r in records if r.check == check]
        if not checked:
            continue
        labels = Labels(checked)
        rows = []
        for record in checked:
            state = NOT_RUN if record.outcome == "skipped" else WORDS[record.outcome]
            rows.append(
                (
                    Cell(clean(labels.model(record))),
                    Cell(labels.target(Target.of(record))),
                    Cell(record.shape),
                    Cell(f"b{record.batch}"),
                    Cell(state, record.outcome, notes.of([record])),
                    *(Cell(text(record), figure=True) for _, text in columns),
                )
            )
        headings = ("model", "backend", "shape", "batch", "outcome", *(name for name, _ in columns))
        remarks = labels.remarks(checked)
        tables.append(Table(title, headings, tuple(rows), keys=4, remarks=remarks, detail=True))
    return tables


def worst_parity(records: Sequence[Record]) -> str:
    """One sentence on how far the furthest detection was; empty without parity figures."""
    parts = []
    for metric, name, unit in (
        ("max_box_px", "box", " px"),
        ("max_score", "score", ""),
        ("max_mask", "mask probability", ""),
    ):
        values = [
            (v, identified(r))
            for r in records
            if r.check == "parity" and (v := r.figure(metric)) is not None
        ]
        if values:
            value, case = max(values)
            parts.append(f"{name} {value:.2g}{unit} ({case})")
    return f"Furthest from PyTorch: {', '.join(parts)}." if parts else ""


def ties(records: Sequence[Record]) -> str:
    """One sentence on what was accepted with a proof of float ties; empty where nothing was."""
    tied = [r for r in records if r.check == "parity" and r.figure("tied_images")]
    if not tied:
        return ""
    images = sum(r.figure("tied_images") or 0 for r in tied)
    count = sum(r.figure("tied_detections") or 0 for r in tied)
    record = max(tied, key=lambda r: (r.figure("tied_detections") or 0, r.figure("tied_images")))
    detections = f" ({many(count, 'detection')})" if count else ""
    return (
        f"Ties: {many(images, 'image')}{detections} in {many(len(tied), 'case')} accepted with a "
        f"proof that only floats tie; most in {identified(record)}."
    )


def unreached(records: Sequence[Record], most: int | None = None) -> str:
    """One sentence on the limits that no image reached; empty where each was reached somewhere.

    Args:
        records: any.
        most: more models than these are counted, not named; None: all are named.
    """
    greatest: dict[tuple[str, str], int] = {}
    for record in records:
        reached = record.metrics.get("cuts_reached") if record.check == "parity" else None
        for cut, images in (reached or {}).items():
            key = (cut, record.model)
            greatest[key] = max(greatest.get(key, 0), int(images))
    without: dict[str, list[str]] = {}
    for (cut, model), images in greatest.items():
        if not images:
            without.setdefault(cut, []).append(model)
    parts = []
    for cut, models in without.items():
        few = most is None or len(models) <= most
        parts.append(f"{cut} ({', '.join(models) if few else many(len(models), 'model')})")
    if not parts:
        return ""
    if most is not None:
        return f"No image reached these limits: {'; '.join(parts)}."
    return f"No image reached these limits, so nothing shows that they hold: {'; '.join(parts)}."


def data_notes(records: Sequence[Record]) -> list[str]:
    """What was completed in data sets, and what is odd about them: each sentence once."""
    noted = (note for record in records for note in record.metrics.get("data_notes") or ())
    return [f"Data: {note}." for note in dict.fromkeys(map(str, noted))]


def speedup(record: Record) -> float | None:
    """PyTorch's time over the backend's, as recorded or from the two times."""
    recorded = record.figure("speedup")
    if recorded is not None:
        return recorded
    measured, eager = record.figure("ms"), record.figure("torch_ms")
    return eager / measured if measured and eager else None


def noise(record: Record) -> float | None:
    """The interquartile range over the median of a latency record's rounds."""
    iqr, median = record.figure("iqr"), record.figure("median") or record.figure("ms")
    return iqr / median if iqr is not None and median else None


def size(count: float) -> str:
    """Bytes for people, in units of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _one_engine(record: Record) -> tuple[object, ...]:
    """Equal for checks of the same engine: a dynamic graph does not depend on the batch size."""
    batch = None if record.shape == "dynamic" else record.batch
    return record.profile, record.model, Target.of(record), record.shape, batch


def _engine(record: Record) -> str:
    parts = []
    if (seconds := record.figure("seconds")) is not None:
        parts.append(f"{seconds:.1f} s")
    bytes_ = record.figure("engine_bytes")
    if bytes_ is None:
        bytes_ = record.figure("bytes")
    if bytes_ is not None:
        parts.append(size(bytes_))
    return " ".join(parts)


def _number(name: str, spec: str, scale: float = 1) -> Callable[[Record], str]:
    def text(record: Record) -> str:
        value = record.figure(name)
        return "" if value is None else format(value * scale, spec)

    return text


def _size(record: Record) -> str:
    value = record.figure("bytes")
    return "" if value is None else size(value)


def _flag(name: str) -> Callable[[Record], str]:
    def text(record: Record) -> str:
        value = record.metrics.get(name)
        return "" if value is None else "yes" if value else "no"

    return text


def _noise(record: Record) -> str:
    value = noise(record)
    return "" if value is None else f"{value:.1%}"


_DETAILS: dict[str, tuple[str, tuple[Column, ...]]] = {
    "export": (
        "Export, case by case",
        (
            ("seconds", _number("seconds", ".1f")),
            ("cached", _flag("cached")),
            ("nodes", _number("nodes", ".0f")),
            ("size", _size),
            ("opset", _number("opset", ".0f")),
        ),
    ),
    "parity": (
        "Parity, case by case",
        (
            ("images", _number("images", ".0f")),
            ("detections", _number("detections", ".0f")),
            ("matched", _number("matched", ".0f")),
            ("missed", _number("missed", ".0f")),
            ("extra", _number("extra", ".0f")),
            ("box px", _number("max_box_px", ".2g")),
            ("score", _number("max_score", ".2g")),
            ("mask", _number("max_mask", ".2g")),
            ("mask IoU", _number("min_mask_iou", ".4f")),
            ("tied images", _number("tied_images", ".0f")),
            ("tied detections", _number("tied_detections", ".0f")),
            ("raw abs", _number("raw_max_abs", ".2g")),
            ("raw rel", _number("raw_max_rel", ".2g")),
        ),
    ),
    "accuracy": (
        "Accuracy, case by case: AP x 100",
        (
            ("box PyTorch", _number("bbox_mAP_torch", ".2f", 100)),
            ("box", _number("bbox_mAP", ".2f", 100)),
            ("mask PyTorch", _number("segm_mAP_torch", ".2f", 100)),
            ("mask", _number("segm_mAP", ".2f", 100)),
        ),
    ),
    "latency": (
        "Latency, case by case: milliseconds",
        (
            ("PyTorch", _number("torch_ms", ".3f")),
            ("ms", _number("ms", ".3f")),
            ("speed-up", _number("speedup", ".2f")),
            ("min", _number("min", ".3f")),
            ("median", _number("median", ".3f")),
            ("IQR", _number("iqr", ".3f")),
            ("IQR/median", _noise),
            ("rounds", _number("rounds", ".0f")),
        ),
    ),
}
