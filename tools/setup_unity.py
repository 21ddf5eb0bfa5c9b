"""Builds mmcv-full's wheel by its own setup.py, with its C++ sources gathered into a few units.

    python setup_unity.py SDIST WORK [--stock]

Nearly all of the compiler's time goes into reading torch/extension.h, once for each of 72 files.
Here each unit includes many of them, so that it is read eight times. setup.py runs unchanged and
names, tags and packs the wheel as ever; only the sources of its extension are replaced on their way
to setuptools. Operators, macros and results are the same: tools/compare_mmcv_builds.py shows it.

SDIST (a .tar.gz) stays as it is: a copy of it is unpacked into WORK, units are written into the
copy, and the wheel is left in WORK/dist. Run again after an interruption, it goes on where ninja
stopped. Runs in `.venv`, with setuptools and torch.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# How many units the files of a folder become. More would read the header more often, fewer would
# leave one of two cores idle at the end.
UNITS = {"csrc/pytorch": 3, "csrc/pytorch/cpu": 1}

# Compiled by themselves: the first takes as long as a whole unit, and the others define functions
# of the same names as their neighbours do.
ALONE = (
    "csrc/pytorch/pybind.cpp",
    "csrc/pytorch/cpu/deform_conv.cpp",
    "csrc/pytorch/cpu/roi_align_rotated.cpp",
    "csrc/pytorch/cpu/rotated_feature_align.cpp",
)

# After Python's own flags, so that these count. Debug information is nine tenths of the object
# files; neither level reorders floating-point arithmetic.
FLAGS = ("-O2", "-g0")

# min and max are macros in one of the headers that the files bring along.
HEAD = "#include <torch/extension.h>\n"
ENTRY = '#undef min\n#undef max\n#include "{}"\n'


def gathered(sources: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Which sources stay as they are, and which unit takes which of the others.

    Sources of other folders or languages (CUDA) stay. The result does not depend on the order of
    ``sources``, which is the file system's.
    """
    alone: list[str] = []
    units: dict[str, list[str]] = {}
    counts = dict.fromkeys(UNITS, 0)
    for source in sorted(sources):
        folder = next((name for name in UNITS if Path(source).parent.match(f"*/{name}")), None)
        if folder is None or not source.endswith(".cpp") or source.endswith(ALONE):
            alone.append(source)
            continue
        number = counts[folder] % UNITS[folder]
        counts[folder] += 1
        units.setdefault(f"{Path(folder).name}_{number}.cpp", []).append(source)
    # What takes longest comes first, so that the cores finish together.
    return sorted(alone, key=lambda source: not source.endswith("pybind.cpp")), units


def write_units(sources: Iterable[str], folder: Path) -> list[str]:
    """Write the units into ``folder``; return the sources to compile in place of ``sources``.

    setuptools takes paths relative to setup.py's folder alone, so ``folder`` is one.

    A unit that is there already and says the same keeps its time stamp, by which ninja goes.
    """
    alone, units = gathered(sources)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, parts in units.items():
        text = HEAD + "".join(ENTRY.format(os.path.abspath(part)) for part in parts)
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        paths.append(str(path))
    return [*alone[:1], *paths, *alone[1:]]


def adapt(extension: Any, folder: Path) -> None:
    """Give a setuptools Extension the units in ``folder`` in place of its sources."""
    extension.sources = write_units(extension.sources, folder)
    extension.extra_compile_args.setdefault("cxx", []).extend(FLAGS)


def unpack(sdist: Path, work: Path) -> Path:
    """The sdist's folder below ``work``, unpacked unless it is there whole.

    Time stamps are the archive's: ninja goes by them.
    """
    target = work / sdist.name.removesuffix(".tar.gz")
    if not target.is_dir():
        arriving = work / "unpacking"
        with tarfile.open(sdist) as archive:
            # Since 3.11.4: what leads out of the folder is refused.
            safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(arriving, **safe)
        (arriving / target.name).rename(target)
    return target


def build(sdist: Path, work: Path, *, stock: bool) -> None:
    """Run the sdist's setup.py as pip would, but for the units unless ``stock``."""
    import setuptools

    os.chdir(unpack(sdist, work))
    original = setuptools.setup

    def setup(**keywords: Any) -> Any:
        for extension in keywords.get("ext_modules") or ():
            adapt(extension, Path("units"))
        return original(**keywords)

    if not stock:
        setuptools.setup = setup
    sys.argv = ["setup.py", "bdist_wheel", "--dist-dir", str(work / "dist")]
    runpy.run_path("setup.py", run_name="__main__")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Build mmcv-full's wheel from its sdist.")
    parser.add_argument("sdist", type=Path, help="mmcv-full's source distribution, .tar.gz")
    parser.add_argument("work", type=Path, help="a folder for objects and the wheel")
    parser.add_argument("--stock", action="store_true", help="file by file, with setup.py's flags")
    options = parser.parse_args(arguments)
    build(options.sdist.resolve(), options.work.resolve(), stock=options.stock)


if __name__ == "__main__":
    main()
