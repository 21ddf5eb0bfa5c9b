"""The Makefile's targets: what they would run, and that help lists them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # MAKEFLAGS and the variables are those of the `make test` that may run this very test.
    variables = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "GPU", "RTX", "MMCV_STOCK",
                 "WORKERS", "PYTHON")  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name not in variables}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def dry(*arguments: str) -> str:
    """What make would run, a command a line."""
    done = make("-n", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ")


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """The Makefile beside programs that note how they were called, and fail where FAIL says."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("python", "pytest", "onnxdet"):
        program = tmp_path / ".venv/bin" / name
        program.write_text(
            f'#!/bin/sh\nfor word in {name} "$@"; do printf "<%s> " "$word"; done >> calls\n'
            f'echo >> calls\ncase "$*" in *"${{FAIL:-nothing}}"*) exit 1;; esac\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def calls(folder: Path) -> list[list[str]]:
    lines = (folder / "calls").read_text().splitlines()
    return [re.findall(r"<(.*?)> ", line) for line in lines]


def test_help_lists_every_target_and_variable() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    shown = make("help").stdout
    assert shown == make().stdout
    for target in phony[1].split():
        assert target == "help" or f"\nmake {target} " in f"\n{shown}"
    for variable in ("ARGS", "GPU", "RTX", "MMCV_STOCK", "WORKERS", "PYTHON"):
        assert f"\n{variable}=" in shown


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ((), []),
        (("RTX=1",), ["--rtx"]),
        (("GPU=1", "RTX=yes"), ["--gpu", "--rtx"]),
        (("MMCV_STOCK=1",), ["--stock"]),
    ],
)
def test_variables_become_options_of_the_set_up(given: tuple[str, ...], flags: list[str]) -> None:
    (line,) = dry("setup", *given).splitlines()
    assert line.split()[1:] == ["tools/setup_env.py", *flags]


def test_structure_passes_its_arguments(sandbox: Path) -> None:
    assert make("structure", "ARGS=--models ssd,detr", folder=sandbox).returncode == 0
    set_up, table = calls(sandbox)
    assert set_up == ["python", "tools/setup_env.py"]
    assert table == ["python", "tools/structure_table.py", "--models", "ssd,detr"]


def test_nightly_runs_five_things_with_their_own_results(sandbox: Path) -> None:
    done = make("nightly", "ARGS=-k ssd", folder=sandbox)
    assert done.returncode == 0, done.stderr
    _, plain, lowered, opsets, tests, coverage = calls(sandbox)
    assert plain == [
        *("pytest", "--onnxdet", "--onnxdet-backend=onnxruntime", "--onnxdet-batch=1,2,4"),
        *("--onnxdet-report=onnxdet-report/nightly-onnxruntime", "-n", "2", "-k", "ssd"),
    ]
    assert lowered == [
        *("pytest", "--onnxdet", "--onnxdet-backend=onnxruntime[tensorrt-lowering]"),
        *("--onnxdet-batch=1,2", "--onnxdet-report=onnxdet-report/nightly-tensorrt-lowering"),
        *("-n", "2", "-k", "ssd"),
    ]
    table = "onnxdet-report/nightly-opsets.md"
    assert opsets == ["python", "tools/opset_table.py", "--out", table]
    assert tests == ["pytest", "tests", "-m", "nightly", "-n", "2", "-k", "ssd"]
    table = "onnxdet-report/nightly-coverage.md"
    assert coverage == ["onnxdet", "coverage", "-n", "2", "--out", table]


@pytest.mark.parametrize("part", ["backend=onnxruntime ", "lowering", "opset_table", "-m nightly"])
def test_a_part_of_nightly_that_fails_fails_it_after_the_others(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setenv("FAIL", part)
    assert make("nightly", folder=sandbox).returncode != 0
    assert len(calls(sandbox)) == 6


def test_a_benchmark_that_does_not_hold_fails_bench_after_the_others(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sandbox / "benchmarks").mkdir()
    for name in ("one", "two"):
        (sandbox / "benchmarks" / f"bench_{name}.py").touch()
    assert make("bench", folder=sandbox).returncode == 0
    monkeypatch.setenv("FAIL", "bench_one")
    assert make("bench", folder=sandbox).returncode != 0
    assert calls(sandbox)[-1] == ["python", "benchmarks/bench_two.py"]


@pytest.mark.parametrize("value", ["1", "yes", "on", "0", "off", "no", ""])
def test_switches_are_on_or_off(value: str) -> None:
    assert ("--stock" in dry("setup", f"MMCV_STOCK={value}")) == (value in ("1", "yes", "on"))


@pytest.mark.parametrize("switch", ["GPU", "RTX", "MMCV_STOCK"])
def test_a_switch_that_is_misspelt_is_refused(switch: str) -> None:
    done = make("-n", "setup", f"{switch}=onn")
    assert done.returncode == 2
    assert f"{switch}=onn: use {switch}=1, or leave it out" in done.stderr
