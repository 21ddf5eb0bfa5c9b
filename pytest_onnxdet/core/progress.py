"""A progress line on stderr, by tqdm: for downloads and long runs. Importing this loads no tqdm.

Where stderr is captured, as in pytest's tests, a line that shows that a run is not stuck is of no
use there: :func:`show_uncaptured` is for whoever knows that capturing is about to begin.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

_EVERY_S = 0.2  # how often the line is drawn on a terminal
_STEPS = 10  # how many lines a whole run prints where there is no terminal

_shown: TextIO | None = None


def show_uncaptured() -> Callable[[], None]:
    """Write progress to what stderr is now, whoever captures it later.

    Returns:
        What undoes that.
    """
    global _shown
    before = _shown
    try:
        _shown = stream = os.fdopen(os.dup(2), "w")
    except OSError:  # a process without stderr
        return lambda: None

    def undo() -> None:
        global _shown
        _shown = before
        stream.close()

    return undo


class Progress:
    """How far something is. Use as a context manager.

    On a terminal tqdm's bar, on one line; elsewhere (a log file, CI) a line of tqdm's figures for
    every tenth of the whole, as tqdm itself has no lines that end.

    Args:
        label: what is going on.
        total: the end; None: unknown.
        unit: ``images``, or ``B`` for bytes, of which there may be many.
        stream: where to write; None: stderr, see :func:`show_uncaptured`.

    Attributes:
        total: as above; it may become known on the way.
        done: how far it is.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, stream: TextIO | None = None
    ) -> None:
        self._stream: TextIO = stream or _shown or sys.stderr
        self._look: dict[str, Any] = {"unit": unit if unit == "B" else f" {unit}"}
        self._look["unit_scale"] = unit == "B"
        self.label, self.total, self.done = label, total, 0
        self._start, self._from, self._step = time.monotonic(), 0, -1
        self._bar = self._new_bar() if self._stream.isatty() else None

    def _new_bar(self) -> Any:
        from tqdm import tqdm  # not before something is under way: pytest imports this module

        class Bar(tqdm):
            monitor_interval = 0  # no thread of its own

        return Bar(
            desc=self.label,
            total=self.total,
            initial=self.done,
            file=self._stream,
            mininterval=_EVERY_S,
            miniters=1,
            dynamic_ncols=True,
            **self._look,
        )

    def start(self, done: int) -> None:
        """Begin, or begin again, at ``done``: speed is that of what comes from now on."""
        self.done = self._from = done
        self._start = time.monotonic()
        if self._bar is not None:
            self._bar.leave = False
            self._bar.close()
            self._bar = self._new_bar()
        self.at(done)

    def advance(self, count: int = 1) -> None:
        """Go on by ``count``."""
        self.at(self.done + count)

    def at(self, done: int) -> None:
        """Now at ``done``."""
        self.done = done
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(done - self._bar.n)
        elif self.total:
            step = done * _STEPS // self.total
            if step > self._step and done:
                self._step = step
                self._stream.write(f"{self._line()}\n")
                self._stream.flush()

    def _line(self) -> str:
        """What tqdm says beside its bar."""
        from tqdm import tqdm

        seconds = time.monotonic() - self._start
        line: str = tqdm.format_meter(
            self.done,
            self.total,
            seconds,
            ncols=0,
            prefix=self.label,
            initial=self._from,
            **self._look,
        )
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
