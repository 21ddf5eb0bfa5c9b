"""report.html: one file that needs no other, for light and dark screens and screen readers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pytest_onnxdet.report.layout import SIGNS, identified
from pytest_onnxdet.report.records import BAD, OUTCOMES
from pytest_onnxdet.report.summary import Summary
from pytest_onnxdet.report.template import TEMPLATE

if TYPE_CHECKING:
    import jinja2

_MAX_LINES = 40


def render(summary: Summary) -> str:
    """The whole file. Every value is escaped."""
    by_outcome = {o: [r for r in summary.records if r.outcome == o] for o in OUTCOMES}
    return _template().render(
        summary=summary,
        max_lines=_MAX_LINES,
        signs=SIGNS,
        bad=BAD,
        by_outcome={outcome: records for outcome, records in by_outcome.items() if records},
        identified=identified,
    )


@cache
def _template() -> jinja2.Template:
    import jinja2  # here: a run that writes no report does not need it

    return jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(TEMPLATE)
