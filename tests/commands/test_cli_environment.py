"""The commands where the environment is not the usual one: in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_models import Tiny, data_of

from pytest_onnxdet import cli
from pytest_onnxdet.data.datasets import SHAPES

MAIN = ("-m", "pytest_onnxdet.cli")
ENDED = 141


def ran(
    folder: Path, words: tuple[object, ...], *python: str, **changes: str | None
) -> subprocess.CompletedProcess[str]:
    """The command in ``folder``, with changes of the environment; None takes a variable out."""
    env = {**os.environ, **{k: v for k, v in changes.items() if v is not None}}
    for name in (name for name, value in changes.items() if value is None):
        env.pop(name, None)
    call = [sys.executable, *python, *MAIN, *map(str, words)]
    return subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "environment",
    [
        {**NO_UTF8, "PYTHONIOENCODING": None, "HOME": None, "XDG_CACHE_HOME": None},
        {"PYTHONIOENCODING": "ascii", "PYTHONOPTIMIZE": "2", "TMPDIR": "/nonexistent"},
    ],
    ids=["no-utf8-no-home", "ascii-optimized-no-tmpdir"],
)
def test_exporting_and_verifying(
    tmp_path: Path, tiny: Tiny, few: Path, environment: dict[str, str | None]
) -> None:
    """A config with other letters in its name, its comment and its classes, too."""
    folder = tmp_path / "gr\u00f6\u00dfe \u6a21\u578b"
    folder.mkdir()
    (folder / "tr\u00e4ger.py").write_text("# \u6a21\u578b\n" + tiny.config.read_text(), "utf-8")
    words = ("tr\u00e4ger.py", tiny.checkpoint, "--output-file", "o.onnx", "--shape", 96, 128)
    done = ran(folder, ("export", *words, "--verify"), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The results are the same" in done.stdout and done.stderr == ""
    assert sorted(path.name for path in folder.iterdir()) == ["o.onnx", "tr\u00e4ger.py"]


@pytest.mark.parametrize("environment", [NO_UTF8, {"PYTHONIOENCODING": "ascii"}])
def test_a_message_with_other_letters(tmp_path: Path, environment: dict[str, str]) -> None:
    done = ran(tmp_path, ("export", "tr\u00e4ger.py", "a.pth"), **environment)
    assert done.returncode == 2 and "no such config file" in done.stderr
    assert "Traceback" not in done.stderr and "unforeseen" not in done.stderr


def test_refusals_do_not_hang_on_asserts(tmp_path: Path) -> None:
    """With PYTHONOPTIMIZE mmdet's own asserts are gone."""
    both = "model = dict(type='RetinaNet', test_cfg=dict(a=1))\ntest_cfg = dict(a=2)\n"
    (tmp_path / "both.py").write_text(both + data_of(tmp_path, SHAPES / "val"))
    (tmp_path / "both.py").write_text("test_pipeline = []\n" + (tmp_path / "both.py").read_text())
    done = ran(tmp_path, ("export", "both.py", "a.pth"), PYTHONOPTIMIZE="2")
    assert done.returncode == 2 and "test_cfg stands in `model` and beside it" in done.stderr


def test_help_without_docstrings(tmp_path: Path) -> None:
    done = ran(tmp_path, ("--help",), PYTHONOPTIMIZE="2")
    assert done.returncode == 0 and "cache" in done.stdout
    assert ran(tmp_path, ("export", "--help"), "-I").returncode == 0


def test_a_full_disk_and_a_closed_pipe(tmp_path: Path) -> None:
    call = [sys.executable, *MAIN, "cache", "--cache", str(tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0 and "unforeseen" not in done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(call, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert done.returncode == ENDED and done.stderr == ""


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, tiny: Tiny) -> None:
    """Where root may write everywhere, /proc still refuses."""
    words = (*tiny, "--output-file", "/proc/o.onnx", "--shape", 96)
    done = ran(tmp_path, ("export", *words))
    assert done.returncode == 2 and "--output-file: /proc" in done.stderr, done.stderr
    assert "unforeseen" not in done.stderr and "Traceback" not in done.stderr


def test_another_folder_than_the_configs(tmp_path: Path, tiny: Tiny) -> None:
    """Bases are relative to the file, wherever the command is called."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "configs" / "base.py").write_text(tiny.config.read_text())
    (tmp_path / "configs" / "child.py").write_text("_base_ = ['./base.py']\n")
    words = ("../configs/child.py", tiny.checkpoint, "--output-file", "o.onnx", "--shape", 96)
    done = ran(tmp_path / "elsewhere", ("export", *words))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["o.onnx"]


@pytest.mark.parametrize("filters", ["default", "error"])
def test_other_packages_warnings_are_not_shown(
    tmp_path: Path, tiny: Tiny, dynamic: Path, filters: str
) -> None:
    """Nor while options are parsed, for which mmcv is imported."""
    test = ("test", tiny.config, dynamic, "--backend", "onnxruntime", "--out", "o.pkl")
    export = ("export", *tiny, "--output-file", "o.onnx", "--shape", 96, 128)
    for words in (test, export):
        options = ("--cfg-options", "data.test.samples_per_gpu=2")
        done = ran(tmp_path, (*words, *options), "-W", filters)
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr


def test_a_workers_end_is_no_interruption() -> None:
    """Pools end their workers by SIGTERM, which in the command itself is an interruption."""
    with cli._ended_in_order():
        ready, ask = os.pipe()
        child = os.fork()
        if not child:
            os.write(ask, b"1")
            time.sleep(30)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
