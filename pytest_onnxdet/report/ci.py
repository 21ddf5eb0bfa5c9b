"""What CI systems read beside a report: JUnit's properties, GitHub's summary, GitLab's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pytest_onnxdet.report import markdown
from pytest_onnxdet.report.figures import speedup
from pytest_onnxdet.report.layout import Labels, Target, clean, identified, many
from pytest_onnxdet.report.records import BAD, OUTCOMES, Record, in_order
from pytest_onnxdet.report.summary import Summary
from pytest_onnxdet.report.tables import METRICS, by

#: GitHub refuses a step's summary above 1 MiB, and shows 10 errors of a step.
SUMMARY_BYTES = 900_000
ANNOTATIONS = 10
#: An annotation's reason is cut to this: GitHub shows 64 KB at most.
_REASON = 1000

Gauge = Callable[[Sequence[Record]], str | None]

_PROPERTIES = {"box_px": "max_box_px", "score": "max_score", "mask": "max_mask", "ms": "ms"}


def properties(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A record's figures as flat JUnit properties, ``onnxdet.box_px`` and the like.

    Args:
        record: as :meth:`Record.to_json` returns it; where it has ``blame``, the stage.

    Returns:
        Names and values: of ``ap.delta`` (0-1), ``box_px``, ``score``, ``mask``, ``ms``,
        ``speedup`` and ``blame`` those that there are.
    """
    known = Record.from_json(record)
    figures: dict[str, float | None] = {"ap.delta": _delta(known)}
    figures |= {name: known.figure(metric) for name, metric in _PROPERTIES.items()}
    figures["speedup"] = known.figure("speedup")
    said = [(f"onnxdet.{name}", f"{v:.6g}") for name, v in figures.items() if v is not None]
    blame = record.get("blame")
    return [*said, ("onnxdet.blame", str(blame))] if blame else said


def step_summary(summary: Summary, room: int, pointer: str) -> str:
    """report.md for ``$GITHUB_STEP_SUMMARY``: as many of its parts as fit.

    Args:
        summary: the report.
        room: the most bytes.
        pointer: said at the end where something was left out: where the whole is.
    """
    end = f"\n\n{markdown.escape(pointer)}\n"
    parts = markdown.parts(summary)
    whole = "\n\n".join(parts) + "\n"
    if len(whole.encode()) <= room:
        return whole
    left = room - len(end.encode())
    text = ""
    for part in parts:
        longer = f"{text}\n\n{part}" if text else part
        if len(longer.encode()) > left:
            break
        text = longer
    return (text + end).lstrip("\n") if left > 0 else ""


def error_commands(records: Iterable[Record]) -> list[str]:
    """GitHub's commands that show what failed: one for each model, at most :data:`ANNOTATIONS`."""
    failed = [r for r in in_order(records) if r.outcome in BAD]
    models = by(failed, Labels(failed).model)
    shown = list(models.items())
    if len(shown) > ANNOTATIONS:
        shown = shown[: ANNOTATIONS - 1]
    commands = [_annotation(model, own) for model, own in shown]
    if len(models) > len(shown):
        left = list(models)[len(shown) :]
        said = f"and {many(len(left), 'more model')}: {', '.join(left)}"
        commands.append(_command("onnxdet", said[:_REASON]))
    return commands


def _annotation(model: str, records: Sequence[Record]) -> str:
    counted = ", ".join(
        f"{check} {len(own)}" for check, own in by(records, lambda r: r.check).items()
    )
    first = records[0]
    reason = clean(first.reason).strip()
    said = f"{many(len(records), 'check')} failed: {counted}\n{identified(first)} {first.check}:\n"
    return _command(f"onnxdet {model}", said + reason[:_REASON])


def _command(title: str, message: str) -> str:
    """An error as a workflow command: one line, with what would end it escaped."""
    title = clean(title).replace("%", "%25").replace("\n", " ")
    title = title.replace(":", "%3A").replace(",", "%2C")
    message = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::error title={title}::{message}"


def metrics_text(records: Iterable[Record]) -> str:
    """metrics.txt, in OpenMetrics' text format: the figures of each model on each target.

    GitLab compares values as texts, so they are rounded, and only the speed-up depends on time.
    """
    ordered = in_order(records)
    groups = by(ordered, lambda r: (r.profile, r.model, Target.of(r)))
    lines = ["# TYPE onnxdet_checks gauge"]
    for outcome in OUTCOMES:
        count = sum(r.outcome == outcome for r in ordered)
        lines.append(f'onnxdet_checks{{outcome="{outcome}"}} {count}')
    for name, of in _GAUGES.items():
        values = {key: value for key, own in groups.items() if (value := of(own)) is not None}
        if values:
            lines.append(f"# TYPE onnxdet_{name} gauge")
        for (profile, model, target), value in values.items():
            labels = {
                "profile": profile,
                "model": model,
                "backend": target.backend,
                "device": target.device,
                "precision": target.precision,
            }
            shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(f"onnxdet_{name}{{{shown}}} {value}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def _escaped(text: str) -> str:
    return clean(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _delta(record: Record) -> float | None:
    """The AP's largest difference to PyTorch."""
    values = [v for m in METRICS if (v := record.figure(f"{m}_delta")) is not None]
    return max(values, key=abs) if values else None


def _figure(name: str, spec: str, of: Callable[[Iterable[float]], float]) -> Gauge:
    def text(records: Sequence[Record]) -> str | None:
        values = [v for r in records if (v := r.figure(name)) is not None]
        return format(of(values), spec) if values else None

    return text


def _largest_delta(records: Sequence[Record]) -> str | None:
    values = [v for r in records if (v := _delta(r)) is not None]
    if not values:
        return None
    largest: float = max(values, key=abs)
    # Adding zero turns the -0.0 of a rounded tiny difference into 0.0.
    return f"{round(largest, 4) + 0.0:.4f}"


def _least_speedup(records: Sequence[Record]) -> str | None:
    values = [v for r in records if r.check == "latency" and (v := speedup(r)) is not None]
    return f"{min(values):.2g}" if values else None


def _failed(records: Sequence[Record]) -> str | None:
    return str(sum(r.outcome in BAD for r in records))


_GAUGES: dict[str, Gauge] = {
    "failed": _failed,
    "box_ap": _figure("bbox_mAP", ".3f", min),
    "mask_ap": _figure("segm_mAP", ".3f", min),
    "ap_delta": _largest_delta,
    "box_px": _figure("max_box_px", ".1g", max),
    "score": _figure("max_score", ".1g", max),
    "mask": _figure("max_mask", ".1g", max),
    "speedup": _least_speedup,
}
