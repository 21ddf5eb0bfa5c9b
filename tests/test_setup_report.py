"""What the set-up says: causes, remedies, evidence and progress."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from setup_report import Progress, SetupError, compiled_files, diagnose, duration, tail_of
from setup_steps import Commands, run_logged


@pytest.mark.parametrize(
    ("output", "cause", "remedy"),
    [
        ("FileNotFoundError: [Errno 2] No such file or directory: 'c++'", "compiler", "g++"),
        ("error: command 'gcc' failed: No such file or directory", "compiler", "g++"),
        ("Command '['which', 'g++']' returned non-zero exit status 1.", "compiler", "g++"),
        ("/bin/sh: 1: x86_64-linux-gnu-g++: not found", "compiler", "g++"),
        ("fatal error: Python.h: No such file or directory", "headers", "python3-dev"),
        ("ModuleNotFoundError: No module named 'torch'", "torch", "remove .venv"),
        ("OSError: [Errno 28] No space left on device", "disk is full", "TMPDIR"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "memory", "MAX_JOBS=1"),
        ("OSError: CUDA_HOME environment variable is not set.", "nvcc", "without GPU=1"),
        ("ImportError: libtorch_cuda.so: cannot open shared object file", "another torch", ".venv"),
        ("ImportError: mmcv/_ext.so: undefined symbol: _ZN3c10", "another torch", "remove .venv"),
        ("because ensurepip is not\navailable.", "virtual environments", "python3-venv"),
        ("ERROR: No matching distribution found for torch==2.13.0", "index", "Python version"),
        ("Max retries exceeded with url: /simple", "cannot be reached", "proxy"),
        ("OSError: HTTPSConnectionPool(host='x', port=443): closed", "cannot be reached", "proxy"),
        ("noise\nValueError: odd thing\nmore", "ValueError: odd thing", "read the log"),
        ("", "unknown", "read the log"),
    ],
)
def test_causes_and_remedies(output, cause, remedy):
    found = diagnose(f"first line\n{output}\nninja: build stopped: subcommand failed.")
    assert cause in found.cause
    assert remedy in found.remedy


def test_the_evidence_is_where_the_cause_is_not_where_the_log_ends():
    noise = "".join(f"line {number}\n" for number in range(50))
    found = diagnose(f"{noise}/bin/sh: 1: c++: not found\n{noise}")
    assert found.evidence == "line 48\nline 49\n/bin/sh: 1: c++: not found"


def test_a_full_disk_outranks_what_it_breaks():
    output = "cc1plus: fatal error: No space left on device\nerror: command 'g++' failed"
    assert diagnose(output).cause == "the disk is full"


def test_a_report_has_step_cause_remedy_log_and_evidence():
    report = SetupError("compiling", "why", "do this", "a\nb", log=Path("/l")).report()
    for part in ("compiling", "cause:  why", "remedy: do this", "log:    /l", "    a\n    b"):
        assert part in report


def test_progress_reads_ninjas_counter():
    assert compiled_files("noise") == ""
    assert compiled_files("[1/73] c++ a\n warning\n  [21/73] c++ b\n") == "21 of 73 files compiled"
    assert duration(42.9) == "42 s"
    assert duration(425) == "7 min 05 s"
    assert tail_of("a\n\n b \nc", 2) == " b\nc"


def test_progress_in_a_log_is_a_line_every_thirty_seconds():
    now = [0]
    stream = io.StringIO()
    progress = Progress("compiling", stream, clock=lambda: now[0])
    progress.start()
    for now[0] in range(1, 62):
        progress.tick("2 of 73 files compiled")
    progress.done()
    assert stream.getvalue().splitlines() == [
        "compiling ...",
        "compiling ..., 2 of 73 files compiled, 30 s",
        "compiling ..., 2 of 73 files compiled, 1 min 00 s",
        "compiling: done (1 min 01 s)",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_one_line():
    stream = Terminal()
    progress = Progress("compiling", stream, clock=lambda: 0.0)
    progress.start()
    progress.tick("1 of 73 files compiled")
    progress.tick()
    progress.done()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 3


def test_a_real_command_is_logged_and_its_failure_told(tmp_path):
    (tmp_path / ".venv").mkdir()
    commands = Commands(tmp_path, run=run_logged, stream=io.StringIO())
    script = "echo before; echo 'No space left on device' >&2; exit 3"
    with pytest.raises(SetupError, match="disk is full") as failure:
        commands.step("trying", ["sh", "-c", script])
    assert failure.value.evidence == "before\nNo space left on device"
    assert "$ sh -c" in commands.log.read_text()
    assert commands.step("again", ["echo", "only this"]) == "only this\n"
    assert commands.quietly(["no-such-command"]).returncode == 127
