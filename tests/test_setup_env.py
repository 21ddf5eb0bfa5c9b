"""The set-up, with a fake in place of every command it would run."""

from __future__ import annotations

import io
import json
import multiprocessing
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import setup_env
import setup_wheel
from setup_report import SetupError
from setup_steps import Commands, Result, exclusive
from setup_wheel import STOCK, UNITY, WheelCache, WheelKey, has_operators

KEY = WheelKey(
    python="cp311", torch="2.13.0+cpu", ops="cpu", mmcv="1.7.2", machine="x86_64",
    recipe=UNITY, compiler="gcc12.2.0",
)  # fmt: skip
GCC = "c++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc."
UNDEFINED = "ImportError: mmcv/_ext.so: undefined symbol: _ZN3c1021throwNullDataPtrErrorEv"

BUILD = "setup_unity.py"

PYPROJECT = """
[build-system]
requires = ["setuptools"]
[project]
dependencies = ["numpy"]
[tool.setuptools]
[tool.ruff]
line-length = 100
"""


def write_wheel(path: Path, *, operators: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mmcv/__init__.py", "")
        if operators:
            archive.writestr("mmcv/_ext.cpython-311-x86_64-linux-gnu.so", "")
    return path


@dataclass
class FakeRunner:
    """Answers each command as a machine would, and keeps what it was asked."""

    torch: tuple[str, str | None] = ("2.13.0+cpu", None)
    proofs: list[Result] = field(default_factory=list)  # then: they succeed
    build_output: Result = field(default_factory=lambda: Result(0, "[8/8] c++"))
    stock_output: Result = field(default_factory=lambda: Result(0, "[73/73] c++"))
    operators: bool = True
    compiler: Result = field(default_factory=lambda: Result(0, GCC))
    asked: list[str] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        tick: Callable[[str], None],
    ) -> Result:
        command = " ".join(argv)
        self.asked.append(command)
        self.environments.append(env)
        venv = cwd / ".venv"
        if "-m venv" in command:
            (venv / "bin").mkdir(parents=True)
            (venv / "bin" / "python").touch()
            (venv / "pyvenv.cfg").write_text("version = 3.11.7\n")
            self._install(venv, "pip-23.2.1")
        elif setup_wheel.PROOF in command:
            return self.proofs.pop(0) if self.proofs else Result(0, setup_wheel.MARKER)
        elif "torch.version.cuda" in command:
            return Result(0, f"a warning\n{json.dumps(self.torch)}\n")
        elif command.endswith("c++ --version"):
            return self.compiler
        elif "pip download" in command:
            (Path(argv[argv.index("--dest") + 1]) / "mmcv-full-1.7.2.tar.gz").touch()
        elif BUILD in command:
            stock = "--stock" in argv
            output = self.stock_output if stock else self.build_output
            work = Path(argv[argv.index("--stock") - 1] if stock else argv[-1])
            log.write_text(output.output)
            if output.returncode == 0:
                wheel = work / "dist" / "mmcv_full-1.7.2-cp311.whl"
                write_wheel(wheel, operators=self.operators)
            return output
        elif "pip install torch" in command:
            self._install(venv, "torch-2.13.0+cpu")
        elif "mmcv_full" in command:
            self._install(venv, "mmcv_full-1.7.2")
        elif "--editable" in command:
            name = "onnxruntime_gpu-1.31.1" if ".[gpu," in command else "onnxruntime-1.32.0"
            self._install(venv, name)
            if "tensorrt-rtx" in command:
                self._install(venv, "tensorrt_rtx_cu13-1.7.1.116")
        return Result(0, "")

    @staticmethod
    def _install(venv: Path, name: str) -> None:
        site = venv / "lib" / "python3.11" / "site-packages"
        (site / f"{name}.dist-info").mkdir(parents=True, exist_ok=True)

    def count(self, part: str) -> int:
        return sum(part in command for command in self.asked)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    clone.mkdir()
    pins = "# pins\ntorch==2.13.0\nmmcv-full==1.7.2\nmmdet==2.28.2\ntensorrt_rtx_cu13==1.7.1.116\n"
    (clone / "constraints.txt").write_text(pins)
    (clone / "pyproject.toml").write_text(PYPROJECT)
    return clone


@pytest.fixture
def cache(tmp_path: Path) -> WheelCache:
    return WheelCache(tmp_path / "cache")


def set_up(root: Path, cache: WheelCache, run: FakeRunner, *, gpu: bool = False, **options) -> str:
    stream = io.StringIO()
    options.setdefault("free", lambda _path: 1e12)
    setup_env.set_up(root, gpu=gpu, cache=cache, run=run, stream=stream, **options)
    return stream.getvalue()


# --- the order of things, and doing nothing ---------------------------------------------------


def test_a_fresh_clone_installs_torch_first_and_builds_once(root, cache):
    run = FakeRunner()
    said = set_up(root, cache, run)
    assert "-m venv" in run.asked[0]
    installs = [command for command in run.asked if "pip install" in command]
    assert installs[0].endswith("pip install torch==2.13.0")
    assert run.count(BUILD) == 1
    assert "about" in said and "minutes" in said and "mmcv-build.log" in said
    assert run.asked[-1].endswith("install --no-deps mmdet==2.28.2")
    assert all(env["PIP_CONSTRAINT"] == "constraints.txt" for env in run.environments)
    assert setup_env.is_set_up(root, gpu=False)


def test_an_interrupted_set_up_is_not_taken_for_a_finished_one(root, cache):
    with pytest.raises(SetupError):
        set_up(root, cache, FakeRunner(build_output=Result(1, "c++: not found")))
    assert not setup_env.is_set_up(root, gpu=False)


def test_the_next_clone_takes_the_wheel_from_the_cache(root, cache):
    write_wheel(cache.folder(KEY) / "mmcv_full-1.7.2-cp311.whl")
    run = FakeRunner()
    set_up(root, cache, run)
    assert run.count(BUILD) == 0


def test_a_second_set_up_keeps_mmcv_where_it_still_imports(root, cache):
    set_up(root, cache, FakeRunner())
    run = FakeRunner()
    set_up(root, cache, run)
    assert run.count("-m venv") == run.count("--force-reinstall") == run.count(BUILD) == 0


def _edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> object:
        path = root / name
        return path.write_text(path.read_text().replace(old, new))

    return change


def _replace_torch(root: Path) -> None:
    site = root / ".venv" / "lib" / "python3.11" / "site-packages"
    (site / "torch-2.13.0+cpu.dist-info").rename(site / "torch-2.14.0.dist-info")


@pytest.mark.parametrize(
    ("change", "still"),
    [
        (lambda root: None, True),
        (_edit("pyproject.toml", "line-length = 100", "line-length = 99"), True),
        (_edit("pyproject.toml", '"numpy"', '"numpy", "onnx"'), False),
        (_edit("constraints.txt", "2.28.2", "2.28.1"), False),
        (_replace_torch, False),
        (lambda root: (root / ".venv" / "setup.json").write_text("{half"), False),
    ],
    ids=["nothing", "lint-option", "dependency", "pin", "torch-replaced", "damaged-state"],
)
def test_the_stamp_holds_until_an_input_changes(root, cache, change, still):
    set_up(root, cache, FakeRunner())
    change(root)
    assert setup_env.is_set_up(root, gpu=False) is still


def test_a_moved_clone_gets_a_new_venv(root, cache):
    set_up(root, cache, FakeRunner())
    moved = root.rename(root.with_name("moved"))
    assert not setup_env.is_set_up(moved, gpu=False)
    run = FakeRunner()
    with pytest.raises(
        FileExistsError
    ):  # the fake does not clear; that it is asked to is the point
        set_up(moved, cache, run)
    assert "--clear" in run.asked[0]


def test_gpu_replaces_onnxruntime_and_builds_for_cuda(root, cache):
    set_up(root, cache, FakeRunner())
    assert not setup_env.is_set_up(root, gpu=True)
    run = FakeRunner(torch=("2.13.0+cu130", "13.0"))
    set_up(root, cache, run, gpu=True)
    assert run.count("uninstall --yes onnxruntime onnxruntime-gpu") == 1
    assert run.count(".[gpu,") == 1
    built = next(i for i, command in enumerate(run.asked) if BUILD in command)
    assert run.environments[built]["FORCE_CUDA"] == "1"
    assert "ops_cu130" in run.asked[built]


def test_rtx_adds_its_builder_and_no_other_set_up_takes_it_away(root, cache):
    set_up(root, cache, FakeRunner())
    assert not setup_env.is_set_up(root, gpu=False, rtx=True)
    run = FakeRunner()
    set_up(root, cache, run, rtx=True)
    assert run.count(".[cpu,openmmlab,export,dev,tensorrt-rtx]") == 1
    assert run.count(BUILD) == 0
    assert setup_env.is_set_up(root, gpu=False, rtx=True)
    assert setup_env.is_set_up(root, gpu=False), "a plain command has nothing to do after it"
    set_up(root, cache, FakeRunner())
    assert setup_env.is_set_up(root, gpu=False, rtx=True)


def test_a_new_pin_of_rtx_is_installed(root, cache):
    set_up(root, cache, FakeRunner(), rtx=True)
    _edit("constraints.txt", "1.7.1.116", "1.8.0.1")(root)
    assert not setup_env.is_set_up(root, gpu=False, rtx=True)


def test_the_builder_that_rtx_installs_is_pinned_whole():
    pins = setup_env.read_pins(setup_env.ROOT)
    parts = (setup_env.RTX, f"{setup_env.RTX}_bindings", f"{setup_env.RTX}_libs")
    assert len({pins[name] for name in parts}) == 1


def test_gpu_without_a_cuda_torch_is_refused(root, cache):
    with pytest.raises(SetupError, match="without CUDA"):
        set_up(root, cache, FakeRunner(), gpu=True)


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 12), (3, 13)])
@pytest.mark.parametrize("there", [None, "/opt/bin/python3.11"])
def test_an_unsupported_python_is_named_with_the_one_that_works(monkeypatch, version, there):
    monkeypatch.setattr(setup_env.shutil, "which", lambda _name: there)
    said = rf"Python 3\.{version[1]}; the pinned stack works with Python 3\.11"
    with pytest.raises(SetupError, match=said) as failure:
        setup_env.check_python(version)
    assert failure.value.remedy.endswith(f"PYTHON={there or 'python3.11'}")


def test_a_small_disk_is_refused_before_anything_is_made(root, cache):
    run = FakeRunner()
    with pytest.raises(SetupError, match=r"1\.2 GB are free .* 2\.5 GB"):
        set_up(root, cache, run, free=lambda _path: 1.2e9)
    assert run.asked == [] and not (root / ".venv").exists()


def test_a_full_venv_needs_no_more_disk(root, cache):
    set_up(root, cache, FakeRunner())
    set_up(root, cache, FakeRunner(), free=lambda _path: 0.0)


def test_the_command_prints_the_report_and_fails(monkeypatch, capsys):
    def refuse() -> None:
        raise SetupError("checking Python", "too old", "use another")

    monkeypatch.setattr(setup_env, "check_python", refuse)
    assert setup_env.main([]) == 1
    assert "cause:  too old" in capsys.readouterr().err


# --- the wheel --------------------------------------------------------------------------------


def test_every_input_of_the_build_changes_the_key():
    others = {
        "python": "cp312", "torch": "2.13.0+cu130", "ops": "cu130", "mmcv": "1.7.1",
        "machine": "aarch64", "recipe": STOCK, "compiler": "clang14.0.6",
    }  # fmt: skip
    assert others.keys() == vars(KEY).keys()
    keys = {str(replace(KEY, **{name: value})) for name, value in others.items()}
    assert len(keys | {str(KEY)}) == 8


def test_a_stale_wheel_is_rebuilt_without_asking_and_proved_again(root, cache):
    write_wheel(cache.folder(KEY) / "mmcv_full-1.7.2-cp311.whl")
    run = FakeRunner(proofs=[Result(1, f"{setup_wheel.MARKER}\n{UNDEFINED}")])
    said = set_up(root, cache, run)
    assert run.count(BUILD) == 1
    assert "--no-cache-dir" in next(command for command in run.asked if "download" in command)
    assert run.count(setup_wheel.PROOF) == 2
    assert "does not load and is rebuilt" in said


def test_a_new_wheel_that_does_not_load_is_an_error_not_a_loop(root, cache):
    unfit = Result(1, f"{setup_wheel.MARKER}\n{UNDEFINED}")
    run = FakeRunner(proofs=[unfit, unfit, unfit])
    with pytest.raises(SetupError, match="another torch"):
        set_up(root, cache, run)
    assert run.count(BUILD) == 1


def test_a_missing_import_of_mmcv_does_not_trigger_a_build(root, cache):
    write_wheel(cache.folder(KEY) / "mmcv_full-1.7.2-cp311.whl")
    run = FakeRunner(proofs=[Result(1, "ModuleNotFoundError: No module named 'addict'")])
    with pytest.raises(SetupError, match="No module named 'addict'"):
        set_up(root, cache, run)
    assert run.count(BUILD) == 0


@pytest.mark.parametrize("damage", ["truncated", "without operators"])
def test_a_damaged_cached_wheel_is_rebuilt(root, cache, damage):
    wheel = write_wheel(
        cache.folder(KEY) / "mmcv_full-1.7.2-cp311.whl", operators=damage == "truncated"
    )
    if damage == "truncated":
        wheel.write_bytes(wheel.read_bytes()[:-40])
    assert not has_operators(wheel)
    run = FakeRunner()
    set_up(root, cache, run)
    assert run.count(BUILD) == 1
    assert has_operators(wheel)


def test_a_build_that_skips_the_operators_names_the_missing_torch(root, cache):
    run = FakeRunner(
        build_output=Result(0, "Skip building ext ops due to the absence of torch."),
        operators=False,
    )
    with pytest.raises(SetupError, match="torch is not importable"):
        set_up(root, cache, run)
    assert cache.find(KEY) is None


def test_a_missing_compiler_is_told_before_torch_is_installed(root, cache):
    run = FakeRunner(compiler=Result(127, "FileNotFoundError: c++"))
    with pytest.raises(SetupError, match="no C\\+\\+ compiler"):
        set_up(root, cache, run)
    assert run.count("pip install") == 0


def test_a_compiler_that_does_not_run_is_named(root, cache, monkeypatch):
    monkeypatch.setenv("CXX", "nonsense -m64")
    run = FakeRunner(compiler=Result(127, "FileNotFoundError: nonsense"))
    with pytest.raises(SetupError, match="CXX is 'nonsense -m64'") as failure:
        set_up(root, cache, run)
    assert "unset CXX" in failure.value.report()


def test_without_a_compiler_a_wheel_of_any_will_do(root, cache):
    write_wheel(cache.folder(KEY) / "mmcv_full-1.7.2-cp311.whl")
    run = FakeRunner(compiler=Result(127, "FileNotFoundError: c++"))
    set_up(root, cache, run)
    assert run.count(BUILD) == 0 and run.count("--force-reinstall") == 1


def test_without_a_compiler_a_wheel_that_does_not_load_is_an_error(root, cache):
    write_wheel(cache.folder(KEY) / "mmcv_full-1.7.2-cp311.whl")
    unfit = Result(1, f"{setup_wheel.MARKER}\n{UNDEFINED}")
    run = FakeRunner(compiler=Result(127, ""), proofs=[unfit])
    with pytest.raises(SetupError, match="no C\\+\\+ compiler"):
        set_up(root, cache, run)


@pytest.mark.parametrize(
    ("first", "version"),
    [
        (GCC, "gcc12.2.0"),
        ("g++ (GCC) 13.2.1 20231205 (Red Hat 13.2.1-6)", "gcc13.2.1"),
        ("Debian clang version 14.0.6", "clang14.0.6"),
        ("Ubuntu clang version 18.1.3 (1ubuntu1)", "clang18.1.3"),
    ],
)
def test_compilers_are_told_apart(root, first, version):
    commands = Commands(root, run=FakeRunner(compiler=Result(0, first)))
    assert setup_wheel.compiler_version(commands, {}) == version


# --- one recipe and the other ------------------------------------------------------------------

CLASH = "FAILED: [code=1] units/cpu_0.o\nnms.cpp:1: error: redefinition of 'int area()'\n"


def test_a_unit_that_does_not_compile_gives_way_to_the_stock_build(root, cache):
    run = FakeRunner(build_output=Result(1, CLASH))
    said = set_up(root, cache, run)
    assert run.count(BUILD) == 2 and run.count("--stock") == 1
    assert "a unit of several files does not compile: nms.cpp:1: error: redefinition" in said
    assert cache.find(KEY) is None and cache.find(replace(KEY, recipe=STOCK)) is not None
    assert setup_env.is_set_up(root, gpu=False)


@pytest.mark.parametrize(
    "said", [f"{CLASH}c++: fatal error: Killed signal terminated program", "ValueError: odd"]
)
def test_what_the_stock_build_would_not_mend_is_told_without_trying_it(root, cache, said):
    run = FakeRunner(build_output=Result(1, said))
    with pytest.raises(SetupError):
        set_up(root, cache, run)
    assert run.count(BUILD) == 1


def test_the_stock_build_may_be_asked_for(root, cache):
    set_up(root, cache, FakeRunner())
    assert not setup_env.is_set_up(root, gpu=False, stock=True)
    run = FakeRunner()
    set_up(root, cache, run, stock=True)
    assert run.count(BUILD) == run.count("--stock") == 1
    assert setup_env.is_set_up(root, gpu=False, stock=True)
    assert cache.find(KEY) is not None, "the other wheel stays"


def test_an_interrupted_build_goes_on_in_its_folder_and_a_finished_one_leaves_none(root, cache):
    with pytest.raises(SetupError):
        set_up(root, cache, FakeRunner(build_output=Result(130, "interrupted")))
    work = root / ".venv" / "mmcv-build" / str(KEY)
    (work / "object.o").touch()
    run = FakeRunner()
    set_up(root, cache, run)
    assert run.count("pip download") == 0, "the sources are there"
    assert any(str(work) in command for command in run.asked if BUILD in command)
    assert not work.parent.exists()


def test_a_failed_build_leaves_nothing_in_the_cache(root, cache):
    with pytest.raises(SetupError, match="no C\\+\\+ compiler") as failure:
        set_up(root, cache, FakeRunner(build_output=Result(1, "/bin/sh: 1: c++: not found")))
    assert "mmcv-build.log" in failure.value.report()
    assert [path.name for path in cache.folder(KEY).iterdir()] == ["lock"]


def test_the_cache_follows_the_base_directory_specification(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = WheelCache.of_user({}).root
    assert home == tmp_path / ".cache" / "pytest-onnxdet" / "wheels"
    assert WheelCache.of_user({"XDG_CACHE_HOME": "relative"}).root == home
    assert WheelCache.of_user({"XDG_CACHE_HOME": "/c"}).root == Path("/c/pytest-onnxdet/wheels")


def test_an_unusable_cache_names_the_folder_and_the_variable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be written") as failure:
        WheelCache(tmp_path / "file").folder(KEY)
    assert "XDG_CACHE_HOME" in failure.value.remedy


def _hold(path: Path, ready, release) -> None:
    with exclusive(path, "never said"):
        ready.set()
        release.wait(30)


def test_a_second_set_up_says_that_it_waits_for_the_first(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", ready, release))
    holder.start()
    assert ready.wait(30)

    class ReleasesWhenRead(io.StringIO):
        def flush(self) -> None:
            release.set()

    stream = ReleasesWhenRead()
    with exclusive(tmp_path / "lock", "waiting", stream, poll=0.05):
        first, *_, last = stream.getvalue().splitlines()
        assert first == "waiting ..." and last.startswith("waiting: done")
    holder.join(30)
    assert holder.exitcode == 0
