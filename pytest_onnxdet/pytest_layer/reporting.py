"""What is said and written at the end of an enabled run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_onnxdet.pytest_layer.outcome import Collector
    from pytest_onnxdet.pytest_layer.stash import Suite
    from pytest_onnxdet.report.records import Record

#: Pytest's own lines at the end of a run: the section's title, an empty one, and the last.
_FRAME = 3
#: Of so many timed cases pytest-benchmark's tables are shown.
_TIMED = 2


class Reporter:
    """Writes the report and prints the summary. A plugin; only the controlling process does it.

    Args:
        config: pytest's.
        suite: the run's.
        collector: of the records.
    """

    def __init__(self, config: pytest.Config, suite: Suite, collector: Collector) -> None:
        self._config, self._suite, self._collector = config, suite, collector

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Writes the report; a run that was to verify something and did not is not a success."""
        if hasattr(self._config, "workerinput") or self._config.getoption("collectonly"):
            return
        records = self._write()
        ran = [record for record in records if record.outcome != "skipped"]
        if not ran and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def finish(self, last: pytest.TestReport) -> None:
        """Writes the report of a run that ends before its time, with the last test's report."""
        self._collector.add(last)
        self._write()

    def _write(self) -> Sequence[Record]:
        """Writes the report's files where they are wanted; returns the records."""
        from pytest_onnxdet import report

        records = self._collector.records()
        folder = self._suite.settings.report
        if folder is not None:
            try:
                report.write_report(records, report.environment(), folder, self._suite.absent)
            except report.ReportError as error:
                raise pytest.UsageError(str(error)) from error
        return records

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Prints the tables, the reasons and where the report lies."""
        if hasattr(self._config, "workerinput") or self._config.getoption("collectonly"):
            return
        from pytest_onnxdet import report
        from pytest_onnxdet.report.terminal import LINES

        folder = self._suite.settings.report
        records = self._collector.records()
        lines = report.summary_lines(
            records,
            report.environment(),
            absent=self._suite.absent,
            room=LINES - _FRAME - (folder is not None) - _listed(terminalreporter),
        )
        terminalreporter.section("onnxdet")
        for line, markup in lines:
            terminalreporter.write_line(line, **markup)
        if folder is not None:
            where = os.path.relpath(folder, self._config.invocation_params.dir)
            terminalreporter.write_line(f"Report: {where}")
        self._quieten_benchmark(sum(r.check == "latency" for r in records))
        self._tell_github(terminalreporter, records)

    def _tell_github(self, terminalreporter: Any, records: Sequence[Record]) -> None:
        """In a workflow of GitHub: the step's summary, and what failed as annotations."""
        from pytest_onnxdet import report
        from pytest_onnxdet.report import ci
        from pytest_onnxdet.report.summary import summarize

        if os.environ.get("GITHUB_ACTIONS") != "true":
            return
        for command in ci.error_commands(records):
            terminalreporter.ensure_newline()
            terminalreporter.write_line(command)
        if path := os.environ.get("GITHUB_STEP_SUMMARY"):
            folder = self._suite.settings.report
            where = f"in {folder.name}/report.md" if folder else "written by --onnxdet-report=DIR"
            summary = summarize(records, report.environment(), self._suite.absent)
            try:
                with open(path, "a", encoding="utf-8") as file:
                    room = ci.SUMMARY_BYTES - file.tell()
                    file.write(ci.step_summary(summary, room, f"The whole report is {where}."))
            except OSError as error:
                terminalreporter.write_line(f"GITHUB_STEP_SUMMARY: {path}: {error.strerror}")

    def _quieten_benchmark(self, timed: int) -> None:
        """Leaves out pytest-benchmark's own tables, five lines a case, where they are many."""
        session = self._config.pluginmanager.getplugin("pytest-benchmark")
        shown = getattr(session, "verbose", False) or self._config.get_verbosity() > 0
        if session is not None and timed > _TIMED and not shown:
            session.quiet = True


def _listed(terminalreporter: Any) -> int:
    """How many lines pytest's ``-rs`` takes for what was skipped."""
    if not terminalreporter.hasopt("skipped"):
        return 0
    skipped = terminalreporter.stats.get("skipped", ())
    reasons = {(r.nodeid.partition("::")[0], str(r.longrepr)) for r in skipped}
    return len(reasons) + 1 if reasons else 0
