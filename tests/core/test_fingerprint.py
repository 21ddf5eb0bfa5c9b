"""A tensor in a few numbers."""

import numpy as np
import pytest

from pytest_onnxdet.core.fingerprint import Fingerprint

RNG = np.random.default_rng(3)
VALUES = RNG.normal(size=(3, 50, 70)).astype(np.float32)


def test_the_same_values_have_the_same_fingerprint_in_any_shape() -> None:
    assert Fingerprint.of(VALUES) == Fingerprint.of(VALUES.reshape(-1, 10))


@pytest.mark.parametrize("change", [1e-3, 1e-1, 10.0])
def test_the_distance_is_about_that_of_the_tensors(change: float) -> None:
    noise = RNG.normal(size=VALUES.shape) * change
    distance = Fingerprint.of(VALUES).distance(Fingerprint.of(VALUES + noise))
    norm = float(np.sqrt((noise**2).sum()))
    assert 0.1 * norm < distance < 10 * norm


def test_an_exchange_and_a_single_element_show() -> None:
    mark = Fingerprint.of(VALUES)
    assert mark.distance(Fingerprint.of(VALUES.transpose(0, 2, 1))) > 1
    one = VALUES.copy()
    one[2, 7, 9] += 1e-2
    assert 1e-4 < mark.distance(Fingerprint.of(one)) < 1
    assert mark.distance(Fingerprint.of(VALUES[:2])) == float("inf")


def test_what_may_be_the_same_by_chance_and_what_is_no_float() -> None:
    assert Fingerprint.of(np.zeros(100)).plain and Fingerprint.of(np.arange(3.0)).plain
    assert not Fingerprint.of(VALUES).plain and not Fingerprint.of(VALUES).exact
    assert Fingerprint.of(np.arange(100)).exact and Fingerprint.of(np.ones(9, bool)).exact
    assert Fingerprint.of(np.empty(0)).plain


def test_numbers_that_are_not_finite_are_like_others() -> None:
    values = np.array([np.nan, np.inf, -np.inf, *range(9)])
    assert Fingerprint.of(values) == Fingerprint.of(values.copy())
    assert Fingerprint.of(values).distance(Fingerprint.of(np.array([0.0, *values[1:]]))) > 1
