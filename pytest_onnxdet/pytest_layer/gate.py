"""``--onnxdet-baseline FILE``: a run that is worse than an earlier one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_onnxdet.report.records import Record
    from pytest_onnxdet.report.regression.compare import Comparison


class BaselineGate:
    """Compares the run with an earlier report.json. A plugin of the controlling process.

    The report is read at once: a file that is no report ends the run before it starts, and the
    run's own report may take its place.

    Args:
        path: the report.json.
        records: gives the run's records when it ends.

    Raises:
        ReportError: the file is missing, corrupt or of another schema.
    """

    def __init__(self, path: Path, records: Callable[[], Sequence[Record]]) -> None:
        from pytest_onnxdet.report.files import read_report

        self._environment, self._before = read_report(path)
        self._records = records
        self._comparison: Comparison | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compares; where something regressed, or nothing was compared, the run fails."""
        if session.config.getoption("collectonly"):
            return
        from pytest_onnxdet import report
        from pytest_onnxdet.report.regression.compare import compare

        self._comparison = compare(
            self._records(),
            self._before,
            environments=(report.environment(), self._environment),
        )
        if not self._comparison.ok and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)  # below the run's own tables
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Prints what moved."""
        if self._comparison is None:
            return
        terminalreporter.section("onnxdet baseline")
        for line, markup in self._comparison.lines():
            terminalreporter.write_line(line, **markup)
