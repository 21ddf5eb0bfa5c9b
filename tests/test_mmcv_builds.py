"""mmcv-full built in units against the stock build: the comparison finds what differs."""

from __future__ import annotations

import zipfile
from contextlib import contextmanager

import compare_mmcv_builds
import numpy as np
import pytest
from compare_mmcv_builds import differences


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("other", "wrong"),
    [
        ({"nms": np.float32([1, 2])}, []),
        ({"nms": np.nextafter(np.float32([1, 2]), np.float32(9))}, ["nms"]),
        ({"nms": np.float32([[1, 2]])}, ["nms"]),
        ({"nms": np.int32([1065353216, 1073741824])}, ["nms"]),  # the same bytes
        ({"nms": np.float32([1, 2]), "more": np.zeros(1)}, ["more"]),
        ({}, ["nms"]),
    ],
    ids=["same", "last bit", "shape", "type", "only here", "only there"],
)
def test_one_bit_is_a_difference(tmp_path, other, wrong):
    first = write(tmp_path / "unity.npz", nms=np.float32([1, 2]))
    count, lines = differences(first, write(tmp_path / "stock.npz", **other))
    assert lines == wrong and count == len({"nms", *other})


def test_nan_equals_itself(tmp_path):
    arrays = {"nms": np.float32([np.nan])}
    paths = (write(tmp_path / f"{name}.npz", **arrays) for name in ("a", "b"))
    assert differences(*paths) == (1, [])


def test_every_operator_has_a_case_that_runs_and_repeats():
    import mmcv_operators

    first, second = mmcv_operators.run_operators(), mmcv_operators.run_operators()
    assert {name.partition(".")[0] for name in first} == mmcv_operators.CASES.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert all(value.size for value in first.values())


def test_a_wheel_of_the_other_recipe_is_not_compared(tmp_path, monkeypatch):
    wheel = tmp_path / "other" / "mmcv_full-1.7.2.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w"):
        pass

    class Cache:
        of_user = classmethod(lambda cls, environ: cls())
        lock = contextmanager(lambda *arguments: iter([None]))

        def find(self, key):
            return wheel

    monkeypatch.setattr(compare_mmcv_builds, "WheelCache", Cache)
    with pytest.raises(SystemExit, match="gave way"), compare_mmcv_builds.both_builds():
        pass


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_operators_and_minis_are_bit_identical_to_the_stock_builds(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare_mmcv_builds.py"])
    assert compare_mmcv_builds.main() == 0, capsys.readouterr().out
