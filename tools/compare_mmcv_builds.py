"""Shows that mmcv-full built in units does what the stock build does, bit by bit.

    python tools/compare_mmcv_builds.py [--minis N]

Runs tools/mmcv_operators.py once with each of the two wheels and compares every array's bytes. The
wheels come from the per-user cache; one that is missing is built, which takes 9 minutes of 2 cores
for the stock one. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from setup_env import ROOT, read_pins, wheel_key
from setup_steps import Commands
from setup_wheel import STOCK, UNITY, WheelCache, build

OPERATORS = Path(__file__).with_name("mmcv_operators.py")


@contextmanager
def both_builds() -> Iterator[dict[str, Path]]:
    """Folders from which mmcv imports: of the build in units and of the stock build."""
    commands = Commands(ROOT)
    cache = WheelCache.of_user(os.environ)
    key = wheel_key(commands, read_pins(ROOT)["mmcv-full"], gpu=False, stock=False)
    with tempfile.TemporaryDirectory() as folder:
        folders = {}
        for recipe in (UNITY, STOCK):
            wanted = replace(key, recipe=recipe)
            with cache.lock(wanted, commands):
                wheel = cache.find(wanted) or build(commands, wanted, cache)
            if wheel.parent.name != str(wanted):
                raise SystemExit(f"the {recipe} build gave way to another: nothing to compare")
            folders[recipe] = Path(folder) / recipe
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folders[recipe])
        yield folders


def run_with(build: Path, *arguments: str) -> str:
    """Run a script of this interpreter whose mmcv is the build's; return what it prints.

    Raises:
        CalledProcessError: it fails; its messages are on stderr.
    """
    paths = [str(build), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def differences(unity: Path, stock: Path) -> tuple[int, list[str]]:
    """How many arrays two .npz files have, and the names of those that are not the same bytes."""
    first, second = np.load(unity), np.load(stock)
    names = sorted({*first.files, *second.files})
    wrong = [
        name
        for name in names
        if name not in first.files
        or name not in second.files
        or first[name].dtype != second[name].dtype
        or first[name].shape != second[name].shape
        or first[name].tobytes() != second[name].tobytes()
    ]
    return len(names), wrong


def main() -> int:
    """The command; 0 where all is the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--minis", type=int, default=24, help="images of each mini detector (default: %(default)s)"
    )
    options = parser.parse_args()
    with both_builds() as builds:
        files = {recipe: folder.with_suffix(".npz") for recipe, folder in builds.items()}
        for recipe, folder in builds.items():
            run_with(folder, str(OPERATORS), str(files[recipe]), "--minis", str(options.minis))
        count, wrong = differences(files[UNITY], files[STOCK])
        names = np.load(files[UNITY]).files
    operators = {name.partition(".")[0] for name in names if not name.startswith("mini ")}
    minis = {name.partition(".")[0] for name in names if name.startswith("mini ")}
    print(f"{count} arrays of {len(operators)} operators and {len(minis)} minis: ", end="")
    print("bit-identical" if not wrong else f"{len(wrong)} differ")
    for name in wrong:
        print(f"  {name}")
    return 1 if wrong or not count else 0


if __name__ == "__main__":
    sys.exit(main())
