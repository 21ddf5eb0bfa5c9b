"""Set up `.venv` with the pinned stack; do nothing, quickly, when it is there.

    python3 tools/setup_env.py [--gpu] [--rtx] [--stock]

The order is forced by what depends on what: torch first and alone, so that no other requirement
chooses its build; then mmcv-full, compiled against it; mmdet without its own requirements, some of
which would replace pinned packages. See constraints.txt for the versions.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from setup_report import NO_COMPILER, SetupError, diagnose
from setup_steps import Commands, Runner, exclusive, run_logged
from setup_wheel import STOCK, UNITY, WheelCache, WheelKey, compiler_version, install, prove

ROOT = Path(__file__).resolve().parents[1]

# The pins in constraints.txt were verified under this Python: older ones do not install several of
# them, and no set-up under a newer one has been run to its end.
PYTHON = (3, 11)

# Measured: a new .venv takes 1.4 GB; objects, wheels and what pip unpacks come on top of it.
DISK_GB = 2.5

# What mmcv-full's setup.py needs to compile: nothing is isolated, because it has to see torch.
BUILD_REQUIREMENTS = ("setuptools<80", "wheel", "ninja", "psutil")

# What --rtx adds. Not part of the stamp: it replaces nothing, so a set-up without --rtx leaves it.
RTX = "tensorrt_rtx_cu13"

# Their versions are part of the stamp, so that one that was removed or replaced by hand is seen.
WATCHED = ("torch", "mmcv-full", "mmdet", "onnxruntime", "onnxruntime-gpu", "pytest-onnxdet")


def check_python(version: tuple[int, int] = (sys.version_info[0], sys.version_info[1])) -> None:
    """Refuse a Python that the pinned stack was not verified on.

    Raises:
        SetupError: naming the version that was, and where it is if it is installed.
    """
    if version == PYTHON:
        return
    wanted = f"python{PYTHON[0]}.{PYTHON[1]}"
    there = shutil.which(wanted)
    raise SetupError(
        "checking Python",
        f"this is Python {version[0]}.{version[1]}; the pinned stack works with "
        f"Python {PYTHON[0]}.{PYTHON[1]}",
        f"remove .venv if it exists, and name another Python: make ... PYTHON={there or wanted}",
    )


def check_disk(root: Path, free: Callable[[Path], float]) -> None:
    """Refuse to fill a disk half-way. ``free`` gives the bytes that are left where a path lies.

    Raises:
        SetupError: with what is there and what is needed, in GB.
    """
    if installed(root / ".venv", "torch") is not None:
        return  # the largest part is there
    there = free(root) / 1e9
    if there < DISK_GB:
        raise SetupError(
            "checking disk space",
            f"{there:.1f} GB are free where the clone is, and a new .venv needs {DISK_GB} GB",
            "free some, or clone to a larger disk, then run the command again",
        )


def read_pins(root: Path) -> dict[str, str]:
    """The versions in constraints.txt, by name."""
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def installed(venv: Path, name: str) -> str | None:
    """The version of a distribution in `.venv`, read from its folder's name: no import, no pip."""
    pattern = f"lib/python3.*/site-packages/{name.replace('-', '_')}-*.dist-info"
    found = next(iter(venv.glob(pattern)), None)
    return found.name[len(name) + 1 : -len(".dist-info")] if found else None


def stamp(root: Path, *, gpu: bool, stock: bool = False) -> str:
    """A digest of all that decides what `.venv` should hold, and of what it visibly does."""
    import tomllib  # here, so that an older Python reaches check_python's message

    venv = root / ".venv"
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    metadata = project["project"]
    inputs: list[Any] = [
        gpu,
        stock,
        str(root),  # neither scripts nor an editable install survive a move
        (venv / "pyvenv.cfg").read_text(encoding="utf-8") if venv.exists() else None,
        (root / "constraints.txt").read_text(encoding="utf-8"),
        [
            metadata.get(part)
            for part in ("dependencies", "optional-dependencies", "entry-points", "scripts")
        ],
        project["build-system"],
        project["tool"]["setuptools"],
        [path.read_text(encoding="utf-8") for path in sorted(root.glob("tools/setup_*.py"))],
        {name: installed(venv, name) for name in WATCHED},
    ]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def read_state(root: Path) -> dict[str, str]:
    """What the last set-up left: its root, its stamp and the key of its mmcv-full wheel."""
    try:
        state: dict[str, str] = json.loads((root / ".venv" / "setup.json").read_text())
        return state
    except (OSError, ValueError):
        return {}


def write_state(root: Path, **changes: str) -> None:
    """Record in one step, so that an interrupted set-up is never taken for a finished one."""
    path = root / ".venv" / "setup.json"
    arriving = path.with_name("setup.json.new")
    arriving.write_text(json.dumps({**read_state(root), "root": str(root), **changes}))
    arriving.replace(path)


def is_set_up(root: Path, *, gpu: bool, rtx: bool = False, stock: bool = False) -> bool:
    """Is there nothing to do?"""
    recorded = read_state(root).get("stamp")
    if rtx and installed(root / ".venv", RTX) != read_pins(root).get(RTX):
        return False
    return recorded is not None and recorded == stamp(root, gpu=gpu, stock=stock)


def create_venv(commands: Commands) -> None:
    """Make `.venv` where it is missing or lacks pip, and again where its folder has moved."""
    root, venv = commands.root, commands.venv
    moved = read_state(root).get("root", str(root)) != str(root)
    if not moved and (venv / "bin" / "python").exists() and installed(venv, "pip"):
        return
    if moved:
        commands.say(".venv was made for another folder: making it anew")
    # The base interpreter: this one may be the .venv that is about to be cleared.
    base = getattr(sys, "_base_executable", None) or sys.executable
    venv.mkdir(exist_ok=True)
    options = ["--clear"] if moved else []
    commands.step("creating .venv", [base, "-m", "venv", *options, str(venv)], log=_early_log(root))
    write_state(root)


def _early_log(root: Path) -> Path:
    # Outside .venv, which this step may clear.
    return root / ".venv.log"


def wheel_key(commands: Commands, mmcv: str, *, gpu: bool, stock: bool) -> WheelKey:
    """Ask the installed torch and the compiler what they are.

    Raises:
        SetupError: where it does not import, or has no CUDA and `gpu` asks for it.
    """
    code = "import json, torch; print(json.dumps([torch.__version__, torch.version.cuda]))"
    result = commands.quietly([commands.python, "-W", "ignore", "-c", code])
    answer = re.search(r"^\[.*\]$", result.output, re.MULTILINE)
    if result.returncode != 0 or answer is None:
        raise SetupError("importing torch", *diagnose(result.output), log=commands.log)
    torch, cuda = json.loads(answer.group())
    if gpu and cuda is None:
        raise SetupError(
            "checking torch for GPU=1",
            f"the installed torch {torch} was built without CUDA",
            "make pip's index offer the CUDA build, remove .venv and run the command again; "
            "or set up without GPU=1",
        )
    return WheelKey(
        python=f"cp{sys.version_info[0]}{sys.version_info[1]}",
        torch=torch,
        ops=f"cu{cuda.replace('.', '')}" if gpu else "cpu",
        mmcv=mmcv,
        machine=platform.machine(),
        recipe=STOCK if stock else UNITY,
        compiler=compiler_version(commands, os.environ),
    )


def check_compiler(commands: Commands, cache: WheelCache) -> None:
    """Say at once, not after minutes of installing, that mmcv-full cannot be compiled.

    Raises:
        SetupError: there is no compiler, and no wheel that was compiled earlier either.
    """
    there = any(cache.root.glob("*/mmcv_full-*.whl"))
    if not there and compiler_version(commands, os.environ) is None:
        known = NO_COMPILER
        if named := os.environ.get("CXX"):
            known = known._replace(
                cause=f"CXX is {named!r}, which is no C++ compiler that runs here",
                remedy="name one that does, or unset CXX, then run the command again",
            )
        raise SetupError("checking the compiler", *known)


def set_up(
    root: Path, *, gpu: bool, rtx: bool = False, stock: bool = False, cache: WheelCache,
    run: Runner = run_logged, stream: TextIO | None = None,
    free: Callable[[Path], float] = lambda path: shutil.disk_usage(path).free,
) -> None:  # fmt: skip
    """Bring `.venv` to what the pins ask for. Every step can be repeated.

    Raises:
        SetupError: with cause and remedy; what was done until then is kept.
    """
    commands = Commands(root, run=run, stream=stream)
    pins = read_pins(root)
    check_disk(root, free)
    create_venv(commands)
    check_compiler(commands, cache)
    commands.say(f"setting up .venv; log: {commands.log}")
    commands.pip(f"installing torch {pins['torch']}", "install", f"torch=={pins['torch']}")
    commands.pip("installing build requirements", "install", *BUILD_REQUIREMENTS)

    # Both own the folder `onnxruntime`: removing one breaks the other, so both go.
    if installed(commands.venv, "onnxruntime" if gpu else "onnxruntime-gpu"):
        commands.pip("removing the other onnxruntime", "uninstall", "--yes", "onnxruntime",
                     "onnxruntime-gpu")  # fmt: skip
    extras = ",".join(["gpu" if gpu else "cpu", "openmmlab", "export", "dev"])
    extras += ",tensorrt-rtx" if rtx else ""
    commands.pip(
        "installing the project and what it needs",
        "install", "--no-build-isolation", "--editable", f".[{extras}]",
    )  # fmt: skip

    key = wheel_key(commands, pins["mmcv-full"], gpu=gpu, stock=stock)
    kept = read_state(root).get("mmcv") == str(key)
    kept = kept and installed(commands.venv, "mmcv-full") == key.mmcv
    if not (kept and prove(commands) is None):
        install(commands, key, cache)
    commands.pip(f"installing mmdet {pins['mmdet']}", "install", "--no-deps",
                 f"mmdet=={pins['mmdet']}")  # fmt: skip
    write_state(root, mmcv=str(key))
    write_state(root, stamp=stamp(root, gpu=gpu, stock=stock))
    _early_log(root).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when `.venv` is ready."""
    parser = argparse.ArgumentParser(description="Set up .venv with the pinned stack.")
    parser.add_argument("--gpu", action="store_true", help="onnxruntime-gpu, mmcv-full with CUDA")
    parser.add_argument("--rtx", action="store_true", help="also tensorrt-rtx-cu13")
    parser.add_argument(
        "--stock", action="store_true", help="mmcv-full file by file, as its setup.py compiles it"
    )
    wanted = vars(parser.parse_args(arguments))
    try:
        check_python()
        if is_set_up(ROOT, **wanted):
            return 0
        with exclusive(ROOT / ".venv.lock", "waiting for another set-up of this clone"):
            if not is_set_up(ROOT, **wanted):
                set_up(ROOT, cache=WheelCache.of_user(os.environ), **wanted)
    except SetupError as error:
        print(f"\n{error.report()}", file=sys.stderr)
        return 1
    except OSError as error:
        failure = SetupError("writing files", *diagnose(f"OSError: {error}"))
        print(f"\n{failure.report()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up interrupted; it continues here next time", file=sys.stderr)
        return 130
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # As a time limit sends it: what set-up has started ends with it, and the next one goes on.
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
