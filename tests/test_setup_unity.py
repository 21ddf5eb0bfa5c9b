"""How mmcv-full's sources become units, and that its own setup.py is what builds them."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import setup_unity
import setuptools

CSRC = "./mmcv/ops/csrc/pytorch"
SOURCES = [
    *(f"{CSRC}/{name}.cpp" for name in ("roi_align", "pybind", "deform_conv", "nms", "carafe")),
    *(f"{CSRC}/cpu/{name}.cpp" for name in ("nms", "roi_align_rotated", "deform_conv", "psamask")),
    *(f"{CSRC}/cuda/{name}" for name in ("cudabind.cpp", "nms_cuda.cu")),
]


def test_each_source_is_compiled_once_by_itself_or_in_one_unit():
    alone, units = setup_unity.gathered(SOURCES)
    parts = [part for unit in units.values() for part in unit]
    assert sorted([*alone, *parts]) == sorted(SOURCES)
    assert alone[0].endswith("pybind.cpp"), "it takes longest, so it begins"
    assert {Path(path).name for path in alone[1:]} == {
        "cudabind.cpp", "nms_cuda.cu", "roi_align_rotated.cpp", "deform_conv.cpp",
    }  # fmt: skip
    assert f"{CSRC}/deform_conv.cpp" in parts, "only the CPU code of that name clashes"
    assert sorted(units) == ["cpu_0.cpp", "pytorch_0.cpp", "pytorch_1.cpp", "pytorch_2.cpp"]
    assert setup_unity.gathered(reversed(SOURCES)) == (alone, units)


def test_a_unit_that_says_the_same_keeps_its_time_stamp(tmp_path):
    first = setup_unity.write_units(SOURCES, tmp_path)
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    assert setup_unity.write_units(SOURCES, tmp_path) == first
    assert {path.stat().st_mtime for path in tmp_path.iterdir()} == {1}
    setup_unity.write_units([*SOURCES, f"{CSRC}/cpu/voxelization.cpp"], tmp_path)
    assert (tmp_path / "cpu_0.cpp").stat().st_mtime != 1
    assert '"' + os.path.abspath(f"{CSRC}/cpu/psamask.cpp") in (tmp_path / "cpu_0.cpp").read_text()


SETUP = """
from setuptools import setup
from types import SimpleNamespace
extension = SimpleNamespace(
    sources=["./mmcv/ops/csrc/pytorch/nms.cpp"], extra_compile_args={"cxx": ["-std"]}
)
setup(name="mmcv-full", ext_modules=[extension])
"""


@pytest.mark.parametrize("stock", [False, True])
def test_the_sdists_own_setup_runs_with_the_units_in_place_of_its_sources(
    tmp_path, monkeypatch, stock
):
    folder = tmp_path / "mmcv-full-1.7.2"
    folder.mkdir()
    (folder / "setup.py").write_text(SETUP)
    with tarfile.open(tmp_path / "mmcv-full-1.7.2.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    calls: list[SimpleNamespace] = []

    def setup(**keywords):
        (extension,) = keywords["ext_modules"]
        calls.append(SimpleNamespace(argv=sys.argv, name=keywords["name"], extension=extension))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setattr(setuptools, "setup", setup)
    work = tmp_path / "work"
    setup_unity.main([str(tmp_path / "mmcv-full-1.7.2.tar.gz"), str(work), *["--stock"] * stock])
    (call,) = calls
    assert call.name == "mmcv-full"
    assert call.argv[-2:] == ["--dist-dir", str(work / "dist")]
    assert (work / "mmcv-full-1.7.2" / "setup.py").exists()
    if stock:
        assert call.extension.sources == ["./mmcv/ops/csrc/pytorch/nms.cpp"]
        assert call.extension.extra_compile_args == {"cxx": ["-std"]}
    else:
        assert call.extension.sources == ["units/pytorch_0.cpp"]
        assert call.extension.extra_compile_args == {"cxx": ["-std", "-O2", "-g0"]}
