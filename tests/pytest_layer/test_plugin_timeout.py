"""``--onnxdet-case-timeout``: a check that takes too long is an outcome, and the rest goes on."""

from __future__ import annotations

import pytest
from plugin_output import cases

# Waits for what never comes; of the second kind no signal gets it back.
WAITS = "time.sleep(600)"
STUCK = "(lock := ctypes.create_string_buffer(64)), [libc.pthread_mutex_lock(lock) for _ in '12']"
TESTS = """
import ctypes
import time
import pytest

libc = ctypes.CDLL(None)


@pytest.fixture(scope="session")
def slow(onnxdet_case):
    if onnxdet_case.batch == 1 and {phase!r} == "setup":
        {wait}


@pytest.mark.export
def test_export(onnxdet_case, onnxdet_record):
    onnxdet_record(bytes=1)


@pytest.mark.parity
def test_parity(onnxdet_case, slow, onnxdet_record):
    try:
        if onnxdet_case.batch == 1 and {phase!r} == "call":
            {wait}
    except Exception:
        pass
    onnxdet_record(images=1)
"""
CHOSEN = ("--onnxdet", "-m", "toy and one_net", "--onnxdet-report=out", "test_graphs.py")


def outcomes(project: pytest.Pytester) -> dict[tuple[str, int], set[str]]:
    found: dict[tuple[str, int], set[str]] = {}
    for case in cases(project.path / "out"):
        found.setdefault((case["check"], case["batch"]), set()).add(case["outcome"])
    return found


AS_EXPECTED = {
    ("export", 1): {"passed"},
    ("export", 2): {"passed"},
    ("parity", 1): {"timeout"},
    ("parity", 2): {"passed"},
}


@pytest.mark.parametrize("phase", ["setup", "call"])
def test_what_waits_is_ended_and_the_rest_goes_on(toy: pytest.Pytester, phase: str) -> None:
    toy.makepyfile(test_graphs=TESTS.format(phase=phase, wait=WAITS))

    result = toy.runpytest_subprocess(*CHOSEN, "--onnxdet-case-timeout=1", timeout=300)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(toy) == AS_EXPECTED
    result.stdout.fnmatch_lines(
        [
            "test_parity*one_net-toy-static-b1*: took longer than 1 s (--onnxdet-case-timeout)",
            "It was at *test_graphs.py:*, in *",
            "8 checks of 4 cases: 6 passed, 2 timeout.",
        ]
    )


def test_what_is_stuck_outside_python_costs_a_worker(toy: pytest.Pytester) -> None:
    toy.makepyfile(test_graphs=TESTS.format(phase="call", wait=STUCK))

    result = toy.runpytest_subprocess(*CHOSEN, "-n1", "--onnxdet-case-timeout=1", timeout=300)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(toy) == AS_EXPECTED
    (first, _) = (case for case in cases(toy.path / "out") if case["outcome"] == "timeout")
    assert "took longer than 1 s" in first["reason"]
    assert "This does not come back to Python: its worker was ended" in first["reason"]


def test_alone_the_run_ends_there_with_its_report(toy: pytest.Pytester) -> None:
    toy.makepyfile(test_graphs=TESTS.format(phase="call", wait=STUCK))

    result = toy.runpytest_subprocess(*CHOSEN, "--onnxdet-case-timeout=1", timeout=300)

    assert result.ret == 124
    result.stderr.fnmatch_lines(["*took longer than 1 s*", "*the rest would go on"])
    assert outcomes(toy) == {("export", 1): {"passed"}, ("parity", 1): {"timeout"}}


def test_a_known_failure_that_takes_too_long_is_not_excused(toy: pytest.Pytester) -> None:
    marked = TESTS.format(phase="call", wait=WAITS).replace(
        "@pytest.mark.parity", '@pytest.mark.parity\n@pytest.mark.xfail(reason="known")'
    )
    toy.makepyfile(test_graphs=marked)

    toy.runpytest_subprocess(*CHOSEN, "--onnxdet-case-timeout=1", timeout=300)

    assert outcomes(toy)["parity", 1] == {"timeout"}


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_another_value_is_refused(toy: pytest.Pytester, value: str) -> None:
    result = toy.runpytest("--onnxdet", f"--onnxdet-case-timeout={value}", "test_graphs.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"*--onnxdet-case-timeout: '{value}': give a number of seconds above 0"]
    )


def test_ini_twin(toy: pytest.Pytester) -> None:
    toy.makeini("[pytest]\nonnxdet_profile = toy\nonnxdet_case_timeout = soon\n")

    result = toy.runpytest("--onnxdet", "test_graphs.py")

    result.stderr.fnmatch_lines(["*onnxdet_case_timeout in *: 'soon': give a number of seconds*"])
