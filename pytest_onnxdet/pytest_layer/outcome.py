"""What a test's outcome means: the reports pytest makes, turned into records.

Every test that runs for a case makes one record. What the suite raises on purpose is shown as its
message and the stage to blame, not as a traceback. A check that passed without recording a figure
compared nothing, and is an error. The record is an attribute of pytest's report and so arrives from
every worker; what it measured is in ``user_properties``, too, which JUnit files show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_onnxdet.core.errors import StageError
from pytest_onnxdet.core.vocabulary import CHECKS
from pytest_onnxdet.pytest_layer.case_timeout import CaseTimedOut, note_of
from pytest_onnxdet.pytest_layer.stash import METRICS
from pytest_onnxdet.run.cases import Case

if TYPE_CHECKING:
    from pytest_onnxdet.report.records import Record

#: The attribute of pytest's report that holds the record.
RECORD = "onnxdet"


def stage_and_message(error: BaseException) -> tuple[str, str] | None:
    """The stage and the message of what the suite raises on purpose, None for a surprise."""
    return (error.stage, str(error)) if isinstance(error, StageError) else None


def case_of(item: pytest.Item) -> Case | None:
    """The case that a test runs for, None for a test of something else."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    case = params.get("onnxdet_case")
    return case if isinstance(case, Case) else None


def check_of(item: pytest.Item) -> str | None:
    """The check whose marker a test carries."""
    return next((check for check in CHECKS if item.get_closest_marker(check)), None)


def judge(item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
    """Rewrites the report of one phase by the rules above, and attaches the record to it."""
    case = case_of(item)
    if case is None:
        return
    error = call.excinfo.value if call.excinfo else None
    outcome: str = report.outcome
    blame = stage_and_message(error) if error is not None else None
    if isinstance(error, CaseTimedOut):
        report.outcome, report.longrepr = "failed", error.where()
        vars(report).pop("wasxfail", None)  # another failure than the known one
    recorded = item.stash.get(METRICS, None)
    metrics = {} if recorded is None else dict(recorded)
    if report.failed and error is not None:
        outcome = "failed" if blame is not None or report.when == "call" else "error"
        if isinstance(error, CaseTimedOut):
            outcome = "timeout"
        if blame is not None:
            _add_known(metrics, error)
            _shorten(item, call, report, *blame)
    check = check_of(item)
    if report.when == "call" and report.passed and check is not None and not metrics:
        report.outcome, outcome = "failed", "error"
        report.longrepr = (
            f"{case.id}: {check} compared nothing: it passed without recording a figure"
        )
    if hasattr(report, "wasxfail") and report.skipped:
        outcome = "xfailed"
    if report.passed and report.when != "call":
        return
    assert isinstance(item, pytest.Function)  # only those are parametrized
    device = getattr(item.funcargs.get("onnxdet_session"), "device", "")
    name = check or item.originalname.removeprefix("test_")
    record = {
        **_axes(case, device),
        "check": name,
        "outcome": outcome,
        "reason": _reason(report, call),
        "metrics": metrics,
    }
    setattr(report, RECORD, record)
    _show(item, report, {**record, "blame": blame[0] if blame is not None else ""})


def _show(item: pytest.Item, report: pytest.TestReport, record: Mapping[str, Any]) -> None:
    """Puts figures and blame where JUnit files and other plugins look for them."""
    from pytest_onnxdet.report.ci import properties

    made = properties(record)
    names = {name for name, _ in made}
    # A report copies its test's properties, and the file shows those of a test's last report.
    for owner in (item, report):
        kept = [entry for entry in owner.user_properties if entry[0] not in names]
        owner.user_properties[:] = [*kept, *made]


def _axes(case: Case, device: str) -> dict[str, Any]:
    """The fields of a record that name the case."""
    return {
        "id": case.id,
        "model": case.spec.name,
        "profile": case.spec.profile,
        "backend": case.backend.name,
        "device": device,
        "shape": case.shape,
        "batch": case.batch,
        "precision": case.precision,
    }


def _add_known(metrics: dict[str, Any], error: BaseException) -> None:
    """A failed check's figures count too."""
    from pytest_onnxdet.report.records import plain

    figures = getattr(error, "metrics", None)
    if isinstance(figures, Mapping):
        metrics.update(plain(figures))


def _shorten(
    item: pytest.Item,
    call: pytest.CallInfo[Any],
    report: pytest.TestReport,
    stage: str,
    message: str,
) -> None:
    """Leaves the message and the stage of a report; ``--full-trace`` keeps the traceback."""
    if item.config.getoption("fulltrace"):
        return
    text = f"stage: {stage}\n{message}" if stage else message
    assert call.excinfo is not None
    failure = pytest.fail.Exception(text, pytrace=False).with_traceback(call.excinfo.tb)
    shown = pytest.ExceptionInfo.from_exception(failure)
    report.longrepr = shown.getrepr(style="value", chain=False)


def _reason(report: pytest.TestReport, call: pytest.CallInfo[Any]) -> str:
    """Why a test did not pass, in words."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    if not report.failed:
        return ""
    if isinstance(report.longrepr, str):
        return report.longrepr
    error = call.excinfo.value if call.excinfo else None
    blame = stage_and_message(error) if error is not None else None
    if blame is not None:
        return f"stage: {blame[0]}\n{blame[1]}" if blame[0] else blame[1]
    return f"{type(error).__name__}: {error}" if error is not None else report.longreprtext


class Collector:
    """Gathers records at the controller.

    Args:
        cases: every case of the run, to name those of a worker that died.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self._cases = {case.id: case for case in cases}
        self._records: dict[str, dict[str, Any]] = {}

    def add(self, report: pytest.TestReport) -> None:
        """Keeps the last word on every test: a failing teardown, a rerun, override."""
        record = getattr(report, RECORD, None)
        if record is None and report.failed and report.when not in ("setup", "call", "teardown"):
            record = self._crashed(report)
        if isinstance(record, Mapping):
            self._records[report.nodeid] = dict(record)

    def _crashed(self, report: pytest.TestReport) -> dict[str, Any] | None:
        """The record of a test during which its worker died, which has no phase."""
        name, bracket, rest = report.nodeid.rpartition("::")[2].partition("[")
        case = self._cases.get(rest.removesuffix("]"))
        check = name.removeprefix("test_")
        if not bracket or case is None or check not in CHECKS:
            return None
        outcome = "crashed" if note_of(report) is None else "timeout"
        record = {"check": check, "outcome": outcome, "reason": report.longreprtext, "metrics": {}}
        return {**_axes(case, device=""), **record}

    def records(self) -> list[Record]:
        """One record per test, sorted by their axes.

        The device is known where a session was opened; the case's other checks, and cases that
        came to nothing, are reported with the device of their case or backend.
        """
        from pytest_onnxdet.report.records import Record, in_order

        known = [r for r in self._records.values() if r["device"]]
        by_case = {r["id"]: r["device"] for r in known}
        by_backend = {r["backend"]: r["device"] for r in known}
        return in_order(
            Record.from_json(
                {
                    **r,
                    "device": r["device"]
                    or by_case.get(r["id"])
                    or by_backend.get(r["backend"], "cpu"),
                }
            )
            for r in self._records.values()
        )
