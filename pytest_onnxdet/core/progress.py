"""A progress line on stderr: for downloads and long runs. Imports nothing heavy.

Where stderr is captured, as in pytest's tests, a line that tells that a run is not stuck is of no
use there: :func:`show_uncaptured` is for whoever knows that capturing is about to begin.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

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

    On a terminal one line is drawn again and again; elsewhere (a log file, CI) a new line is
    written for every tenth of the whole.

    Args:
        label: what is going on.
        total: the end; None: unknown.
        unit: "images", or "MB", for which counts are given in bytes.
        stream: where to write; None: stderr, see :func:`show_uncaptured`.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, stream: TextIO | None = None
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._stream: TextIO = stream or _shown or sys.stderr
        self._terminal = self._stream.isatty()
        self._start, self._from = time.monotonic(), 0
        self._drawn = -_EVERY_S
        self._step = -1
        self.done = 0

    def start(self, done: int) -> None:
        """Begin, or begin again, at ``done``: speed is that of what comes from now on."""
        self._start, self._from, self._drawn = time.monotonic(), done, -_EVERY_S
        self.at(done)

    def advance(self, count: int = 1) -> None:
        """Go on by ``count``."""
        self.at(self.done + count)

    def at(self, done: int) -> None:
        """Now at ``done``."""
        self.done = done
        now = time.monotonic() - self._start
        if self._terminal:
            if now - self._drawn >= _EVERY_S or done == self.total:
                self._drawn = now
                self._stream.write(f"\r{self._text(now)}\x1b[K")
                self._stream.flush()
        elif self.total:
            step = done * _STEPS // self.total
            if step > self._step and done:
                self._step = step
                self._stream.write(f"{self._text(now)}\n")
                self._stream.flush()

    def _text(self, seconds: float) -> str:
        scale, digits = (1e6, 1) if self.unit == "MB" else (1, 0)
        text = f"{self.label}: {self.done / scale:.{digits}f}"
        if self.total is not None:
            text += f"/{self.total / scale:.{digits}f} {self.unit}"
            text += f" ({100 * self.done // max(1, self.total)} %)"
        else:
            text += f" {self.unit}"
        new = self.done - self._from
        rate = new / scale / seconds if seconds > 0 else 0.0
        text += f", {rate:.1f} {self.unit}/s"
        if self.total is not None and new > 0 and self.done < self.total:
            text += f", {seconds * (self.total - self.done) / new:.0f} s left"
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal and self.done:
            self._stream.write("\n")
            self._stream.flush()
