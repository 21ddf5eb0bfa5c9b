"""Raw outputs: allowance, NaN and infinity, shapes and names."""

import numpy as np
import pytest

from pytest_onnxdet.verify.raw import compare_raw

RTOL, ATOL = 1e-3, 1e-5


def compare(a, b):
    return compare_raw(a, b, RTOL, ATOL)


def test_within_the_allowance():
    a = {"x": np.float32([[1, -2, 0, 1000]])}
    b = {"x": a["x"] + np.float32([[9e-4, 1.9e-3, 9e-6, 0.9]])}
    result = compare(a, b)
    assert result.ok
    assert result.raw_max_abs == pytest.approx(0.9, rel=1e-3)
    assert result.raw_max_rel == pytest.approx(9.5e-4, rel=1e-2)  # 1.9e-3 / 2, and 9e-6 / 0.01


def test_worst_element_is_named():
    a = {"x": np.zeros((2, 3), np.float32), "y": np.ones(2, np.float32)}
    b = {"x": a["x"].copy(), "y": a["y"]}
    b["x"][1, 2], b["x"][0, 1] = 0.5, 0.1
    result = compare(a, b)
    assert not result.ok
    assert result.differences[0].at == (1, 2)
    text = result.format()
    assert text.startswith("1 of 2 raw outputs differ")
    assert "x: 2 of 6 elements differ (33.3%), worst at [1, 2]: 0.5 instead of 0" in text
    assert "(up to 1e-05 allowed)" in text


@pytest.mark.parametrize(
    ("wanted", "got", "ok"),
    [
        (np.inf, np.inf, True),
        (-np.inf, -np.inf, True),
        (np.inf, -np.inf, False),
        (np.inf, 1e30, False),
        (1.0, np.inf, False),
        (np.nan, np.nan, False),
        (1.0, np.nan, False),
        (np.nan, 1.0, False),
    ],
)
def test_what_is_not_finite(wanted, got, ok):
    with np.errstate(all="raise"):
        result = compare({"x": np.float32([1, wanted])}, {"x": np.float32([1, got])})
    assert result.ok is ok
    assert (result.raw_max_abs == 0) is ok
    if not ok:
        assert result.differences[0].at == (1,)


def test_shapes_names_and_batches():
    a = {"x": np.zeros((2, 3)), "y": np.zeros(2)}
    assert "shape (3, 2) instead of (2, 3)" in compare(a, {**a, "x": np.zeros((3, 2))}).format()
    assert "y: missing" in compare(a, {"x": a["x"]}).format()
    assert "z: not in the reference" in compare(a, {**a, "z": np.zeros(1)}).format()
    assert "1 batch(es) instead of 2" in compare([a, a], [a]).format()
    assert compare([a, a], [a, a]).ok
    assert not compare([a, a], [a, {**a, "x": a["x"] + 1}]).ok


def test_nothing_compared_is_not_agreement():
    assert not compare({}, {}).ok
    assert not compare({"x": np.zeros((0, 4))}, {"x": np.zeros((0, 4))}).ok
    assert compare({}, {}).format() == "compared no raw output"


def test_integers_and_no_relative_allowance():
    assert compare({"x": np.int64([3])}, {"x": np.int64([3])}).ok
    assert not compare({"x": np.int64([3])}, {"x": np.int64([4])}).ok
    assert compare_raw({"x": np.ones(1)}, {"x": np.ones(1) + 0.5}, rtol=0, atol=1).ok
