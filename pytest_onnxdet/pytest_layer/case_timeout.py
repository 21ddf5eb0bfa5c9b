"""``--onnxdet-case-timeout SECONDS``: a check of a case that takes longer ends, the rest goes on.

First an exception is raised in the test, by a signal. Where that does not end it, because the main
thread is in code that does not come back to Python, its process ends: pytest-xdist then replaces
the worker. A run without workers ends there, with its report written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_onnxdet.run.cases import Case

#: The longest that a check has to end after the exception, seconds.
GRACE = 30.0
#: The process's exit status where it had to be ended.
STATUS = 124
# Not SIGALRM, which pytest-timeout uses.
_SIGNAL = signal.SIGVTALRM
_FOLDER = "onnxdet_timed_out"
_ATTRIBUTE = "onnxdet_timed_out"


class CaseTimedOut(pytest.fail.Exception):  # type: ignore[name-defined]
    """A check took too long.

    As pytest's own, it is no ``Exception``, which code under test may catch; and a fixture that
    raised it raises it again for the next test, rather than taking as long again.
    """

    def where(self) -> str:
        """The message, and the line at which the check was."""
        frames = traceback.extract_tb(self.__traceback__)[:-1]  # the last is the handler's own
        return f"{self}{_place(frames)}"


def note_of(report: pytest.TestReport) -> str | None:
    """What a worker said before it ended itself in the middle of a test; None: it crashed."""
    note: str | None = getattr(report, _ATTRIBUTE, None)
    return note


class CaseTimeout:
    """Limits each check of a case. A plugin of every process.

    Args:
        config: pytest's.
        seconds: the limit for set-up and test together, and again for the teardown.
        finish: of a run without workers that ends here: takes the report of its last test.
    """

    def __init__(
        self, config: pytest.Config, seconds: float, finish: Callable[[pytest.TestReport], None]
    ) -> None:
        self._config, self._seconds, self._finish = config, seconds, finish
        self._folder: Path | None = None
        self._item: pytest.Item | None = None
        self._left = seconds
        self._armed = False
        self._before = signal.signal(_SIGNAL, self._raise)
        self._stderr = os.dup(2)  # pytest captures the other one
        config.add_cleanup(self._close)

    def _close(self) -> None:
        signal.signal(_SIGNAL, self._before)
        os.close(self._stderr)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells a worker of pytest-xdist where to leave a note."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="onnxdet-"))
        node.workerinput[_FOLDER] = str(self._folder)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Tells a worker that ended itself from one that crashed."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            note = (self._folder / _name(crashitem)).read_text(encoding="utf-8")
            setattr(report, _ATTRIBUTE, note)
            report.longrepr = note

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        """Limits the set-up."""
        self._left = self._seconds
        with self._limited(item):
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """Limits the test to what the set-up left."""
        with self._limited(item):
            yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        """Limits the teardown."""
        self._left = self._seconds
        with self._limited(item):
            yield

    @contextlib.contextmanager
    def _limited(self, item: pytest.Item) -> Iterator[None]:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if not isinstance(params.get("onnxdet_case"), Case):
            yield
            return
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(item, done, self._left), daemon=True)
        start = time.monotonic()
        self._item, self._armed = item, True
        watch.start()
        try:
            yield
        finally:
            self._armed = False
            done.set()
            self._left = max(self._left - (time.monotonic() - start), 0.001)

    def _watch(self, item: pytest.Item, done: threading.Event, seconds: float) -> None:
        """Runs beside the test."""
        if done.wait(seconds):
            return
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, _SIGNAL)
        if not done.wait(min(self._seconds, GRACE)):
            frame = sys._current_frames().get(main)
            place = _place(traceback.extract_stack(frame)) if frame is not None else ""
            self._end(item, f"{self._message(item)}{place}\nThis does not come back to Python: ")

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._armed and self._item is not None:
            self._armed = False
            raise CaseTimedOut(self._message(self._item), pytrace=False)

    def _message(self, item: pytest.Item) -> str:
        return f"{item.name}: took longer than {self._seconds:g} s (--onnxdet-case-timeout)"

    def _end(self, item: pytest.Item, message: str) -> None:
        """Ends the process, of which the main thread is stuck."""
        if hasattr(self._config, "workerinput"):
            path = Path(self._config.workerinput[_FOLDER]) / _name(item.nodeid)
            path.write_text(f"{message}its worker was ended", encoding="utf-8")
        else:
            said = f"{message}the run ends here; with -n1 (pytest-xdist) the rest would go on"
            os.write(self._stderr, f"\n{said}\n".encode())
            self._finish(_report(item, said))
        os._exit(STATUS)


def _report(item: pytest.Item, message: str) -> pytest.TestReport:
    """As pytest-xdist makes one for a worker that died."""
    report = pytest.TestReport(
        item.nodeid,
        item.location,
        {},
        "failed",
        message,
        when="???",  # type: ignore[arg-type]
    )
    setattr(report, _ATTRIBUTE, message)
    return report


def _name(nodeid: str) -> str:
    return hashlib.sha256(nodeid.encode()).hexdigest()


def _place(stack: list[traceback.FrameSummary]) -> str:
    if not stack:
        return ""
    last = stack[-1]
    return f"\nIt was at {last.filename}:{last.lineno}, in {last.name}"
