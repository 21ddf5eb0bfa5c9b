"""What becomes of a mutant: caught, the same, below the allowance, or a hole in the suite."""

import dataclasses

import numpy as np
import pytest

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.judge import Sides, judge
from pytest_onnxdet.verify.mutants import operators
from pytest_onnxdet.verify.selftest import (
    BELOW,
    CAUGHT,
    EQUIVALENT,
    SURVIVED,
    caught,
    refused,
    unseen,
)

OPERATOR = operators()[0]
TOLERANCE = Tolerance()


def detections(shift=0.0, score=0.9, label=0):
    boxes = np.array([[1, 2, 30, 40]], np.float32) + np.float32(shift)
    return [Detections(boxes, np.array([score], np.float32), np.array([label], np.int64))]


def test_the_same_bits_are_equivalent():
    result = unseen(OPERATOR, "conv", True, detections(), detections(), TOLERANCE)
    assert (result.outcome, result.check) == (EQUIVALENT, "")
    result.raise_for("case")


def test_within_the_allowance_is_below_with_its_effect():
    result = unseen(OPERATOR, "conv", False, detections(), detections(0.004), TOLERANCE, 0.0001)
    assert result.outcome == BELOW
    assert result.effect["box_px"] == pytest.approx(0.004, rel=1e-3)
    assert result.effect["ap"] == 0.0001
    result.raise_for("case")


@pytest.mark.parametrize("candidate", [detections(1.0), detections(score=0.8), detections(label=1)])
def test_beyond_the_allowance_and_not_refused_survives(candidate):
    result = unseen(OPERATOR, "conv", False, detections(), candidate, TOLERANCE)
    assert result.outcome == SURVIVED
    with pytest.raises(CheckFailed, match=f"does not see that {OPERATOR.description}") as error:
        result.raise_for("case")
    assert error.value.stage == "selftest"
    assert error.value.metrics["mutant"] == SURVIVED


def test_a_red_verdict_names_its_part_and_its_margin():
    verdict = judge(Sides(detections(), detections(0.05)), TOLERANCE)
    result = caught(OPERATOR, "conv", verdict)
    assert (result.outcome, result.check) == (CAUGHT, "detections")
    assert result.margin == pytest.approx(5, rel=0.01)
    raw = {"cls": np.ones((1, 2), np.float32)}
    other = {"cls": np.full((1, 2), 2, np.float32)}
    sides = Sides(detections(), detections(), raw_reference=raw, raw=other)
    assert caught(OPERATOR, "", judge(sides, TOLERANCE)).check == "raw"
    sides = Sides(detections(), detections(), singles=detections(1.0))
    assert caught(OPERATOR, "", judge(sides, TOLERANCE)).check == "singles"


def test_a_check_that_raises_is_named_by_its_stage():
    error = CheckFailed("case: 1 fault(s)\n  slot 3", {}, "contract")
    result = refused(OPERATOR, "", error)
    assert (result.outcome, result.check) == (CAUGHT, "contract")
    assert result.reason == "case: 1 fault(s) slot 3"


def test_figures_are_what_json_holds():
    result = unseen(OPERATOR, "conv", False, detections(), detections(0.004), TOLERANCE)
    assert result.figures["operator"] == OPERATOR.name
    assert dataclasses.asdict(result)["place"] == "conv" == result.figures["place"]
