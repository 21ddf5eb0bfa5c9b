"""``-W error``: other packages' warnings fail no check, this package's and the project's do."""

import subprocess
import sys

import pytest

THIRD = """
import sys, warnings
exec(compile({code!r}, {file!r}, "exec"), {{"__name__": {name!r}, "warnings": warnings}})
"""
WARN = "warnings.warn('the end of an era', UserWarning)"


NOTE = "__import__('pytest_onnxdet.core.notes').core.notes.note('an odd input')"


def warning_in(toy: pytest.Pytester, name: str, file: str, what: str = WARN) -> None:
    """The toy detector is built by code of another module, which warns."""
    conftest = toy.path / "conftest.py"
    code = THIRD.format(code=what, file=file, name=name)
    body = "\n".join(f"        {line}" for line in code.strip().splitlines())
    text = conftest.read_text().replace(
        "        def build(path):", f"{body}\n        def build(path):"
    )
    assert text != conftest.read_text()
    conftest.write_text(text)


OTHERS = [
    ("mmcv", "/x/site-packages/mmcv/__init__.py"),
    ("mmdet.models.builder", "/x/site-packages/mmdet/models/builder.py"),
    ("torch.jit._script", "/x/site-packages/torch/jit/_script.py"),
]


@pytest.mark.parametrize(
    ("name", "file", "workers"),
    [*((name, file, ()) for name, file in OTHERS), (*OTHERS[0], ("-n", "2"))],
)
def test_other_packages_warnings_fail_no_check(
    toy: pytest.Pytester, name: str, file: str, workers: tuple[str, ...]
) -> None:
    warning_in(toy, name, file)
    words = ("--onnxdet", "-m", "toy", "-W", "error", "test_graphs.py", *workers)
    result = (toy.runpytest_subprocess if workers else toy.runpytest)(*words)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert "the end of an era" not in result.stdout.str() + result.stderr.str()


def test_they_are_told_once_in_verbose_mode(toy: pytest.Pytester) -> None:
    warning_in(toy, *OTHERS[0])
    result = toy.runpytest_subprocess(
        "--onnxdet", "-m", "toy", "-W", "error", "-v", "test_graphs.py"
    )
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert result.stdout.str().count("the end of an era") == 1


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_notes_are_told_and_fail_no_check(toy: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """Wherever in the stack they are made: the check goes on with what the note says."""
    warning_in(toy, *OTHERS[0], NOTE)
    words = ("--onnxdet", "-m", "toy", "-W", "error", "test_graphs.py", *workers)
    result = toy.runpytest_subprocess(*words)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert "Note: an odd input" in result.stdout.str()


def test_the_projects_own_warnings_are_errors(toy: pytest.Pytester) -> None:
    warning_in(toy, "conftest", str(toy.path / "conftest.py"))
    result = toy.runpytest("--onnxdet", "-m", "toy", "-W", "error", "test_graphs.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "the end of an era" in result.stdout.str()


def test_without_cases_nothing_is_filtered(toy: pytest.Pytester) -> None:
    toy.makepyfile(
        test_own="import warnings\n\n\ndef test_own():\n"
        "    warnings.warn_explicit('an own test', UserWarning, 'mmcv.py', 1, module='mmcv')\n"
    )
    result = toy.runpytest("--onnxdet", "-W", "error", "test_own.py")
    assert result.ret != pytest.ExitCode.OK and "an own test" in result.stdout.str()


def test_own_code_warns_about_nothing_of_its_own() -> None:
    """Every module of the plugin's layer imports under ``-W error``."""
    code = (
        "import pytest_onnxdet.plugin, pytest_onnxdet.pytest_layer.collect, pytest_onnxdet.cli\n"
        "import pytest_onnxdet.core.cache, pytest_onnxdet.core.store\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert ran.returncode == 0 and ran.stderr == "", ran.stderr
