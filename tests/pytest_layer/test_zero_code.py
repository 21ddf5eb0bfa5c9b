"""docs/zero_code.md, taken at its word: the wheel in a clean environment, an empty folder.

The environment is a new venv that has the wheel, built of this tree and installed with pip, and
nothing of the clone. What is shared with the environment that runs the tests are the third-party
packages alone (PyTorch, mmcv-full, mmdet, ONNX Runtime, pytest, ...): they are links, one for each
entry of its site-packages but this project's own and `.pth` files, so that no editable install
acts. Installing those anew takes minutes and an index.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import site
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from plugin_output import cases

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/zero_code"
PAGE = (ROOT / "docs/zero_code.md").read_text()
BLOCK = re.compile(r"<!-- (\S+) (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)
#: What setuptools makes the wheel of.
SOURCES = ("pytest_onnxdet", "conformance", "pyproject.toml", "setup.py", "README.md", "LICENSE")
OURS = ("pytest_onnxdet", "__editable__")
CLONES = ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_WORKER")


class Clean:
    """A venv and a folder, both outside of the clone.

    Args:
        place: of both.
    """

    def __init__(self, place: Path) -> None:
        self.folder, self._venv = place / "anywhere", place / "venv"
        self.env = {name: value for name, value in os.environ.items() if name not in CLONES}
        self.env |= {
            "XDG_CACHE_HOME": str(place / "cache"),
            "PYTHONNOUSERSITE": "1",
            "COLUMNS": "100",
        }
        (place / "source").mkdir()
        for name in SOURCES:
            if (ROOT / name).is_dir():
                left_out = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, place / "source" / name, ignore=left_out)
            else:
                shutil.copy(ROOT / name, place / "source")
        pip = (sys.executable, "-m", "pip")
        offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
        isolated = ("--no-build-isolation", "--wheel-dir", place)
        self._called(*pip, "wheel", *offline, *isolated, place / "source", cwd=place)
        (wheel,) = place.glob("*.whl")
        self._called(sys.executable, "-m", "venv", "--without-pip", self._venv, cwd=place)
        self._called(*pip, "--python", self.python, "install", *offline, wheel, cwd=place)
        self._share(place / "shared")
        self.folder.mkdir()

    @property
    def python(self) -> Path:
        return self._venv / "bin/python"

    def _share(self, links: Path) -> None:
        """Makes third-party packages importable, and pytest a command."""
        links.mkdir()
        for folder in map(Path, site.getsitepackages()):
            for entry in folder.iterdir() if folder.is_dir() else ():
                here = links / entry.name
                if not entry.name.startswith(OURS) and entry.suffix != ".pth" and not here.exists():
                    here.symlink_to(entry)
        (packages,) = self._venv.glob("lib/python*/site-packages")
        (packages / "shared.pth").write_text(f"{links}\n")
        command = self._venv / "bin/pytest"
        command.write_text(f"#!{self.python}\nimport sys\nimport pytest\nsys.exit(pytest.main())\n")
        command.chmod(0o755)

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """What a command of the venv says, in the folder."""
        return subprocess.run(
            [str(self._venv / "bin" / str(words[0])), *map(str, words[1:])],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=550,
        )

    def _called(self, *words: object, cwd: Path) -> None:
        done = subprocess.run(
            list(map(str, words)), cwd=cwd, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """The wheel's environment; its folder has what the page lists."""
    clean = Clean(tmp_path_factory.mktemp("clean"))
    for name in ("shape_finder.py", "root_finder.py"):
        shutil.copy(EXAMPLE / name, clean.folder)
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(EXAMPLE / "ours", clean.folder / "ours", ignore=left_out)
    made = clean.run("python", EXAMPLE / "make_inputs.py", clean.folder)
    assert made.returncode == 0, made.stderr
    return clean


def page_command(name: str) -> list[str]:
    """The words of the command that a block of the page begins with."""
    (text,) = (text for kind, of, text in BLOCK.findall(PAGE) if (kind, of) == ("run:", name))
    command = text.partition("\n")[0]
    assert command.startswith("$ ")
    return shlex.split(command[2:])


def page_output(name: str) -> list[str]:
    """The lines that the page shows of what the command says, without those left out (…)."""
    (text,) = (text for kind, of, text in BLOCK.findall(PAGE) if (kind, of) == ("run:", name))
    return [line for line in text.splitlines()[1:] if line.strip() not in ("", "…")]


def missing(shown: Sequence[str], said: str) -> list[str]:
    """Shown lines that were not said."""
    lines = {line.rstrip() for line in said.splitlines()}
    return [line for line in shown if line.rstrip() not in lines]


def test_the_page_shows_the_examples_own_files() -> None:
    shown = [(name, text) for kind, name, text in BLOCK.findall(PAGE) if kind == "file:"]
    assert {name for name, _ in shown} >= {"shape_finder.py", "ours/heads.py", "root_finder.py"}
    for name, text in shown:
        source = (EXAMPLE / name).read_text()
        assert all(part.strip("\n") in source for part in text.split("    …\n")), name


def test_the_wheel_is_what_runs(clean: Clean) -> None:
    code = "import pytest_onnxdet, importlib.metadata as m; print(pytest_onnxdet.__file__); "
    code += "print(*[d.locate_file('') for d in m.distributions(name='pytest-onnxdet')])"
    said = clean.run("python", "-c", code).stdout.splitlines()
    venv = clean.python.parents[1]
    assert len(said) == 2 and all(Path(line).is_relative_to(venv) for line in said)
    assert not clean.folder.is_relative_to(ROOT)
    assert sorted(path.name for path in clean.folder.iterdir()) == [
        "epoch_12.pth",
        "ours",
        "photos",
        "root_finder.py",
        "shape_finder.py",
    ]
    assert len(list((clean.folder / "photos").iterdir())) == 10


def test_a_detector_with_parts_of_its_own_passes(clean: Clean, tmp_path: Path) -> None:
    """Of the page's command one case; all of them are in the nightly test."""
    command = page_command("passes")
    assert command[:2] == ["pytest", "--onnxdet"] and command[-2] == "-m"
    done = clean.run(
        *command[:-2], "-m", f"dynamic and batch2 and {command[-1]}", f"--onnxdet-report={tmp_path}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    by_check = {case["check"]: case for case in cases(tmp_path) if case["backend"] == "onnxruntime"}
    assert {check: case["outcome"] for check, case in by_check.items()} == {
        "export": "passed",
        "parity": "passed",
        "accuracy": "skipped",
    }
    parity = by_check["parity"]
    assert parity["id"] == "shape_finder-onnxruntime-dynamic-b2"
    assert parity["metrics"]["images"] == 10 and parity["metrics"]["detections"] > 100
    assert by_check["accuracy"]["reason"].startswith("no annotations: there is no AP")


@pytest.mark.nightly
def test_the_page_shows_what_its_command_says(clean: Clean) -> None:
    done = clean.run(*page_command("passes"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not missing(page_output("passes"), done.stdout), done.stdout


def test_a_head_that_decodes_otherwise_is_refused_by_its_class(clean: Clean) -> None:
    done = clean.run(*page_command("refused"))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert not missing(page_output("refused"), done.stdout), done.stdout
