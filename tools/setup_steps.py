"""Runs the set-up's commands: inside `.venv`, into a log, with a line of progress each.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO

from setup_report import Progress, SetupError, diagnose


class Result(NamedTuple):
    """What a command left: its exit status, and stdout and stderr together."""

    returncode: int
    output: str


class Runner(Protocol):
    """Runs one command; the tests put a fake in its place."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        tick: Callable[[str], None],
    ) -> Result:
        """Run `argv`, append its output to `log`, call `tick` with it about once a second."""


def run_logged(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    tick: Callable[[str], None],
) -> Result:
    """The real `Runner`.

    The command writes straight to the log, so the log is complete even where this process is
    killed, and progress is read back from there.
    """
    with log.open("a+", encoding="utf-8", errors="replace") as stream:
        stream.write(f"$ {' '.join(argv)}\n")
        stream.flush()
        begin = stream.tell()

        def so_far() -> str:
            with log.open(encoding="utf-8", errors="replace") as reader:
                reader.seek(begin)
                return reader.read()

        try:
            child = subprocess.Popen(
                argv, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=dict(env), cwd=cwd,
            )  # fmt: skip
        except OSError as error:
            return Result(127, f"{type(error).__name__}: {error}")
        try:
            while True:
                try:
                    return Result(child.wait(timeout=1.0), so_far())
                except subprocess.TimeoutExpired:
                    tick(so_far())
        finally:
            if child.poll() is None:  # interrupted
                child.terminate()
                child.wait()


class Commands:
    """The commands of one set-up, all with the same environment, log folder and terminal."""

    def __init__(
        self, root: Path, *, run: Runner = run_logged, stream: TextIO | None = None
    ) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.python = str(self.venv / "bin" / "python")
        self.run = run
        self.stream = stream if stream is not None else sys.stdout

    @property
    def log(self) -> Path:
        """The log of every step but the mmcv-full build, which has its own."""
        return self.venv / "setup.log"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables that a command sees.

        `.venv/bin` comes first on PATH because torch looks for ninja there. A foreign PYTHONPATH
        would let the proof import a package that `.venv` lacks. The locale is fixed because
        causes are recognised in the English messages. The constraints travel in a variable, so
        that they also bind a command that is spelled without them; the path is relative to
        the root, where every command runs, because pip splits the variable at spaces.
        """
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
        # pip compiles file after file on one core, most of them never imported. The option's
        # variable is read the wrong way round: a false value turns compiling off.
        env["PIP_NO_COMPILE"] = "false"
        env.update(
            PATH=os.pathsep.join([str(self.venv / "bin"), env.get("PATH", os.defpath)]),
            VIRTUAL_ENV=str(self.venv),
            PYTHONNOUSERSITE="1",
            LC_ALL="C.UTF-8",
            PIP_CONSTRAINT="constraints.txt",
            PIP_DISABLE_PIP_VERSION_CHECK="1",
            PIP_NO_INPUT="1",
        )
        env.update(extra or {})
        return env

    def say(self, text: str) -> None:
        """A line for the terminal."""
        print(text, file=self.stream, flush=True)

    def quietly(self, argv: Sequence[str]) -> Result:
        """Run a command whose failure is an answer."""
        return self.run(
            argv, env=self.environment(), cwd=self.root, log=self.log, tick=lambda _output: None
        )

    def step(
        self,
        label: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        detail: Callable[[str], str] = lambda _output: "",
    ) -> str:
        """Run a command that has to succeed, and return its output.

        Raises:
            SetupError: with the cause that its output names.
        """
        progress = Progress(label, self.stream)
        progress.start()
        log = log or self.log
        result = self.run(
            argv,
            env=self.environment(env),
            cwd=self.root,
            log=log,
            tick=lambda output: progress.tick(detail(output)),
        )
        if result.returncode != 0:
            progress.done("failed")
            raise SetupError(label, *diagnose(result.output), log=log)
        progress.done()
        return result.output

    def pip(self, label: str, *arguments: str) -> str:
        """`pip` of `.venv`, as a step."""
        return self.step(label, [self.python, "-m", "pip", *arguments])


@contextmanager
def exclusive(
    path: Path, label: str, stream: TextIO | None = None, *, poll: float = 1.0
) -> Iterator[None]:
    """Hold a lock between processes; the kernel drops it when the holder dies.

    `label` is what the terminal says while another process has it.
    """
    progress: Progress | None = None
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if progress is None:
                    progress = Progress(label, stream)
                    progress.start()
                progress.tick()
                time.sleep(poll)
        if progress is not None:
            progress.done()
        yield
