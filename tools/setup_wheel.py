"""mmcv-full: built once per machine and torch, cached, and proved by importing it.

mmcv-full's operators are compiled against one torch and load with no other; a wheel that does not
fit fails at import with an undefined symbol. So the cache's key names the torch, the compiler and
its flags, the proof is the import itself, and a cached wheel that fails it is replaced.

The sources are compiled in a few units (:mod:`setup_unity`), and file by file, as mmcv-full's
setup.py does it, where that is asked for or a unit does not compile.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from setup_report import NO_COMPILER, SetupError, compiled_files, diagnose, is_known, tail_of
from setup_steps import Commands, exclusive

# The two ways to compile, as the key names them, and the minutes that each takes of one core:
# measured on 2 cores, 1.6 and 9 minutes.
UNITY, STOCK = "unity-O2-g0", "stock"
CORE_MINUTES = {UNITY: 3.2, STOCK: 18.0}

# What fails before the marker is not the wheel's fault, and rebuilding would not help.
MARKER = "everything but the operators imports"
PROOF = f"import torch, mmcv; print({MARKER!r}, flush=True); import mmcv._ext"


@dataclass(frozen=True)
class WheelKey:
    """All that a built wheel depends on."""

    python: str  # cp311
    torch: str  # 2.13.0+cpu
    ops: str  # cpu or cu130: for what the operators are compiled
    mmcv: str  # 1.7.2
    machine: str  # x86_64
    recipe: str  # UNITY or STOCK
    compiler: str | None  # gcc12.2.0; None where there is none: then any compiler's wheel will do

    def __str__(self) -> str:
        stack = f"mmcv{self.mmcv}-{self.python}-torch{self.torch}-ops_{self.ops}-{self.machine}"
        return f"{stack}-{self.recipe}-{self.compiler or '*'}"


def compiler_version(commands: Commands, environ: Mapping[str, str]) -> str | None:
    """The C++ compiler that torch's build runs, `gcc12.2.0` or `clang14.0.6`, if there is one."""
    result = commands.quietly([*shlex.split(environ.get("CXX") or "c++"), "--version"])
    first = result.output.partition("\n")[0]
    version = re.search(r"(\d+\.\d+[.\d]*)\s*$", first) or re.search(r"\d+\.\d+[.\d]*", first)
    if result.returncode != 0 or version is None:
        return None
    return f"{'clang' if 'clang' in first else 'gcc'}{version.group().strip()}"


class WheelCache:
    """A folder per key, each with one wheel; shared by all clones of one user."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> WheelCache:
        """The cache where the XDG base directory specification puts it."""
        configured = environ.get("XDG_CACHE_HOME", "")
        # The specification: a relative path is invalid and must be ignored.
        base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
        return cls(base / "pytest-onnxdet" / "wheels")

    def folder(self, key: WheelKey) -> Path:
        """The key's folder, made if missing.

        Raises:
            SetupError: where it cannot be made or written.
        """
        folder = self.root / str(key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SetupError(
                "opening the wheel cache",
                f"{folder} cannot be written: {error.strerror}",
                "make it writable, or name another folder in XDG_CACHE_HOME",
            ) from error
        return folder

    def find(self, key: WheelKey) -> Path | None:
        """The key's wheel, unless it is missing, damaged or without operators."""
        wheels = sorted(self.root.glob(f"{key}/mmcv_full-*.whl"))
        return next((wheel for wheel in wheels if has_operators(wheel)), None)

    def store(self, key: WheelKey, built: Path) -> Path:
        """Put a wheel in place in one step, so that no other clone sees half of it."""
        kept = self.folder(key) / built.name
        arriving = kept.with_name(f".{built.name}.{os.getpid()}")
        shutil.copyfile(built, arriving)
        arriving.replace(kept)
        return kept

    def lock(self, key: WheelKey, commands: Commands) -> AbstractContextManager[None]:
        """Let one clone build while the others wait for its wheel."""
        if key.compiler is None:  # and so nothing will be built
            return nullcontext()
        label = "waiting for another set-up, which has the same mmcv-full"
        return exclusive(self.folder(key) / "lock", label, commands.stream)


def has_operators(wheel: Path) -> bool:
    """Is the archive whole, and was the extension compiled into it?

    mmcv-full's setup.py builds a wheel without operators, and calls that a success, when it
    cannot import torch.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None and any(
                name.startswith("mmcv/_ext.") and name.endswith(".so")
                for name in archive.namelist()
            )
    except (OSError, zipfile.BadZipFile):
        return False


def build(commands: Commands, key: WheelKey, cache: WheelCache) -> Path:
    """Compile mmcv-full's sdist against the torch in `.venv`; return the cached wheel.

    Where a unit does not compile, the files are compiled one by one, and that wheel is cached under
    a key of its own.

    Raises:
        SetupError: with the cause that the log names.
    """
    if key.compiler is None:
        raise SetupError("compiling mmcv-full", *NO_COMPILER)
    cores = len(os.sched_getaffinity(0))
    cuda = key.ops != "cpu"
    commands.say(
        f"mmcv-full {key.mmcv} has to be compiled against torch {key.torch}, once per machine.\n"
        f"This takes about {_minutes(key)} minutes on {cores} cores"
        f"{', longer with CUDA' if cuda else ''}. Log: {_log(commands)}"
    )
    try:
        return _compile(commands, key, cache)
    except SetupError as error:
        said = _log(commands).read_text(encoding="utf-8", errors="replace")
        if key.recipe == STOCK or "FAILED: " not in said or is_known(said):
            raise
        stock = replace(key, recipe=STOCK)
        commands.say(
            f"a unit of several files does not compile: {error.cause}\n"
            f"They are compiled one by one now, in about {_minutes(stock)} minutes."
        )
        return cache.find(stock) or _compile(commands, stock, cache)


def _minutes(key: WheelKey) -> int:
    return max(2, round(CORE_MINUTES[key.recipe] / len(os.sched_getaffinity(0))))


def _log(commands: Commands) -> Path:
    return commands.venv / "mmcv-build.log"


def _compile(commands: Commands, key: WheelKey, cache: WheelCache) -> Path:
    """One build by the key's recipe. What an interrupted one has compiled is not compiled again."""
    cuda = key.ops != "cpu"
    env = {
        "MMCV_WITH_OPS": "1",
        "FORCE_CUDA": "1" if cuda else "0",
        # mmcv-full would start at least four compilers, at up to 1.5 GB each.
        "MAX_JOBS": os.environ.get("MAX_JOBS", str(len(os.sched_getaffinity(0)))),
    }
    if not cuda:
        # FORCE_CUDA=0 alone still compiles CUDA operators where torch sees a GPU.
        env["CUDA_VISIBLE_DEVICES"] = ""
    work = commands.venv / "mmcv-build" / str(key)
    work.mkdir(parents=True, exist_ok=True)
    _log(commands).unlink(missing_ok=True)
    label = f"compiling mmcv-full {key.mmcv}"
    sdist = work / f"mmcv-full-{key.mmcv}.tar.gz"
    if not sdist.exists():
        # --no-binary: a wheel that pip finds elsewhere was built against some other torch.
        commands.step(
            f"fetching mmcv-full {key.mmcv}",
            [commands.python, "-m", "pip", "download", "--no-build-isolation", "--no-deps",
             "--no-cache-dir", "--no-binary", "mmcv-full", "--dest", str(work),
             f"mmcv-full=={key.mmcv}"],
            env=env,
        )  # fmt: skip
    script = Path(__file__).with_name("setup_unity.py")
    stock = ["--stock"] if key.recipe == STOCK else []
    output = commands.step(
        label, [commands.python, "-W", "ignore", str(script), str(sdist), str(work), *stock],
        env=env, log=_log(commands), detail=compiled_files,
    )  # fmt: skip
    built = next((work / "dist").glob("mmcv_full-*.whl"), None)
    if built is None or not has_operators(built):
        found = diagnose(output)
        raise SetupError(
            label,
            f"the build left no wheel with operators: {found.cause}",
            found.remedy,
            found.evidence,
            log=_log(commands),
        )
    wheel = cache.store(key, built)
    shutil.rmtree(work.parent, ignore_errors=True)
    return wheel


def prove(commands: Commands) -> str | None:
    """Import the operators in `.venv`: None if they load, else what the import said.

    Raises:
        SetupError: where torch or mmcv itself does not import, which no other wheel would mend.
    """
    result = commands.quietly([commands.python, "-c", PROOF])
    if result.returncode == 0:
        return None
    if MARKER not in result.output:
        raise SetupError(
            "importing torch and mmcv", *diagnose(result.output),
            log=commands.log,
        )  # fmt: skip
    return result.output


def install(commands: Commands, key: WheelKey, cache: WheelCache) -> None:
    """Install a wheel that provably loads: the cached one if it does, else a new one.

    Raises:
        SetupError: where even the wheel built just now does not load, or none can be built.
    """
    rejected: tuple[int, int] | None = None
    while True:
        with cache.lock(key, commands):
            wheel = cache.find(key)
            # Another clone may have replaced the rejected wheel while this one waited.
            fresh = wheel is None or _identity(wheel) == rejected
            if fresh or wheel is None:
                wheel = build(commands, key, cache)
        commands.pip(
            f"installing mmcv-full {key.mmcv}",
            "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel),
        )  # fmt: skip
        said = prove(commands)
        if said is None:
            commands.say("mmcv._ext imports")
            return
        if fresh:
            raise SetupError("importing mmcv._ext", *diagnose(said), log=commands.log)
        commands.say(f"the cached mmcv-full wheel does not load and is rebuilt: {tail_of(said, 1)}")
        rejected = _identity(wheel)


def _identity(wheel: Path) -> tuple[int, int]:
    status = wheel.stat()
    return status.st_ino, status.st_mtime_ns
