"""What the set-up says: progress while a step runs, and cause and remedy when one fails.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO


class Diagnosis(NamedTuple):
    """Why a step failed, what the user does about it, and the lines that show the cause."""

    cause: str
    remedy: str
    evidence: str = ""


class SetupError(Exception):
    """A failed step, told so that the user can act on it."""

    def __init__(
        self, step: str, cause: str, remedy: str, evidence: str = "", *, log: Path | None = None
    ) -> None:
        super().__init__(f"{step}: {cause}")
        self.step, self.cause, self.remedy, self.log = step, cause, remedy, log
        self.evidence = evidence

    def report(self) -> str:
        """The text for the terminal."""
        lines = [f"set-up failed: {self.step}"]
        if self.evidence:
            lines += ["", *(f"    {line}" for line in self.evidence.splitlines()), ""]
        lines += [f"  cause:  {self.cause}", f"  remedy: {self.remedy}"]
        if self.log is not None:
            lines.append(f"  log:    {self.log}")
        return "\n".join(lines)


NO_COMPILER = Diagnosis(
    "no C++ compiler was found",
    "install one (Debian: apt-get install g++), or name one in CXX, then run the command again",
)

COMPILERS = r"(?:c\+\+|g\+\+|gcc|cc|[\w-]+-linux-gnu-g(?:cc|\+\+))"

# The first match wins. A full disk or a killed compiler comes first, because either also makes
# the compiler, pip and the import complain about things that are its consequences.
KNOWN_FAILURES: tuple[tuple[str, Diagnosis], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        Diagnosis(
            "the disk is full",
            "free 2.5 GB where the clone and the temporary folder are (TMPDIR moves the latter), "
            "then run the command again",
        ),
    ),
    (
        r"Killed signal terminated program|fatal error: Killed|MemoryError|out of memory|"
        r"Cannot allocate memory",
        Diagnosis(
            "the machine ran out of memory; one compiler process needs about 1.5 GB",
            "run the command again with MAX_JOBS=1 in the environment",
        ),
    ),
    (
        r"Python\.h: No such file",
        Diagnosis(
            "the C headers of this Python are not installed",
            "install them (Debian: apt-get install python3-dev), then run the command again",
        ),
    ),
    (
        rf"No such file or directory: '(?:\S*/)?{COMPILERS}'|\['which', '{COMPILERS}'\]|"
        rf"(?:^|[\s:/]){COMPILERS}: (?:command )?not found|"
        rf"unable to execute '{COMPILERS}'|command '(?:\S*/)?{COMPILERS}' failed: No such file",
        NO_COMPILER,
    ),
    (
        r"No module named 'torch'|absence of torch",
        Diagnosis(
            "torch is not importable in .venv, and mmcv-full is compiled against it",
            "remove .venv and run the command again",
        ),
    ),
    (
        r"detected CUDA version .* mismatches",
        Diagnosis(
            "the CUDA toolkit's version is not the one that torch was built with",
            "point CUDA_HOME at a toolkit of torch's CUDA version, then run the command again",
        ),
    ),
    (
        r"CUDA_HOME environment variable is not set|nvcc: (?:command )?not found|"
        r"No such file or directory: '\S*nvcc'",
        Diagnosis(
            "GPU=1 compiles mmcv-full with nvcc, and no CUDA toolkit was found",
            "install the toolkit of torch's CUDA version and point CUDA_HOME at it, "
            "or set up without GPU=1",
        ),
    ),
    (
        r"ensurepip is not\s+available|No module named ensurepip",
        Diagnosis(
            "this Python cannot make virtual environments",
            "install its venv module (Debian: apt-get install python3-venv), "
            "then run the command again",
        ),
    ),
    (
        r"Could not find a version that satisfies|No matching distribution found",
        Diagnosis(
            "the package index does not have a pinned version for this Python and platform",
            "check the index that pip uses (pip config list), that the network and the proxy reach "
            "it, and the Python version; the pins in constraints.txt are for Python 3.11 on "
            "x86-64 Linux",
        ),
    ),
    (
        r"Failed to establish a new connection|Temporary failure in name resolution|"
        r"Max retries exceeded|ReadTimeoutError|ConnectTimeoutError|CERTIFICATE_VERIFY_FAILED|"
        r"ProxyError|Cannot connect to proxy|ConnectionRefusedError|HTTPS?ConnectionPool\(",
        Diagnosis(
            "the package index cannot be reached",
            "check the network, pip's index and certificate settings (pip config list), and the "
            "proxy (HTTPS_PROXY, HTTP_PROXY, NO_PROXY, pip's `proxy`), then run the command again",
        ),
    ),
    (
        r"undefined symbol|libtorch\w*\.so\S*: cannot open|libcud\w*\.so\S*: cannot open",
        Diagnosis(
            "the compiled operators were built against another torch than the one in .venv",
            "remove .venv and run the command again",
        ),
    ),
)


def diagnose(output: str) -> Diagnosis:
    """Find the cause in what a failed command printed, with the lines around it.

    An unknown cause is not guessed at: the last line that names an error is quoted, and the
    output's end is the evidence.
    """
    for pattern, known in KNOWN_FAILURES:
        if match := re.search(pattern, output, re.MULTILINE):
            end = output.find("\n", match.end())
            return known._replace(evidence=tail_of(output[: end if end >= 0 else None], lines=3))
    named = [line.strip() for line in output.splitlines() if re.search(r"\b\w*[Ee]rror\b:", line)]
    return Diagnosis(
        named[-1] if named else "unknown",
        "read the log; when the cause is gone, run the command again: it continues where it failed",
        tail_of(output),
    )


def is_known(output: str) -> bool:
    """Does the output name one of the known causes, which no other way to build would mend?"""
    return any(re.search(pattern, output, re.MULTILINE) for pattern, _ in KNOWN_FAILURES)


def tail_of(output: str, lines: int = 12) -> str:
    """The last lines that say something, cut to the width of a terminal."""
    said = [line.rstrip()[:160] for line in output.splitlines() if line.strip()]
    return "\n".join(said[-lines:])


def duration(seconds: float) -> str:
    """Seconds as a person would say them: `42 s`, `7 min 05 s`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def compiled_files(output: str) -> str:
    """How far ninja has come, from its own counter: `21 of 73 files compiled`, or nothing yet."""
    counts = re.findall(r"^\s*\[(\d+)/(\d+)\]", output, re.MULTILINE)
    return f"{counts[-1][0]} of {counts[-1][1]} files compiled" if counts else ""


class Progress:
    """One step's line: rewritten in place on a terminal, repeated every 30 s in a log."""

    PLAIN_INTERVAL = 30.0

    def __init__(
        self,
        label: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self.stream = stream if stream is not None else sys.stdout
        self.clock = clock
        self.started = self.last_plain = clock()
        self.width = 0

    def start(self) -> None:
        """Say that the step begins, before it may take minutes without a word."""
        if not self.stream.isatty():
            self._plain(f"{self.label} ...")

    def tick(self, detail: str = "") -> None:
        """Called about once a second; `detail` is what the step itself knows of its progress."""
        text = ", ".join(part for part in (f"{self.label} ...", detail, self._elapsed()) if part)
        if self.stream.isatty():
            self._rewrite(text)
        elif self.clock() - self.last_plain >= self.PLAIN_INTERVAL:
            self.last_plain = self.clock()
            self._plain(text)

    def done(self, outcome: str = "done") -> None:
        """End the step's line."""
        text = f"{self.label}: {outcome} ({self._elapsed()})"
        if self.stream.isatty():
            self._rewrite(text)
            self.stream.write("\n")
            self.stream.flush()
        else:
            self._plain(text)

    def _elapsed(self) -> str:
        return duration(self.clock() - self.started)

    def _rewrite(self, text: str) -> None:
        self.stream.write("\r" + text.ljust(self.width))
        self.stream.flush()
        self.width = len(text)

    def _plain(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()
