"""What PyTorch's own AP has to be: the documented one, or that of the weights' training."""

from typing import Any

import pytest

from pytest_onnxdet.models.mini import mini_specs
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.documented import LOST, check_documented, check_reached

FULL = ModelSpec("one_net", "one.py", "full", expected_ap={"bbox": 0.365})
MINI = ModelSpec("two_net", "two.py", masks=True, expected_ap={"bbox": 0.6, "segm": 0.55})


def reached(spec: ModelSpec, shape: str = "dynamic", batch: int = 1, **aps: float) -> bool:
    metrics: dict[str, Any] = {f"{kind}_mAP_torch": ap for kind, ap in aps.items()}
    try:
        check_reached(spec, metrics, shape=shape, batch=batch, case_id="x")
    except CheckFailed as error:
        assert error.stage == "accuracy" and error.metrics == metrics
        return False
    return True


@pytest.mark.parametrize(
    ("ap", "good"),
    [
        (0.366, True),
        (0.364, True),
        (0.365, True),
        (0.36601, False),
        (0.36399, False),
        (0.36649, False),  # rounds to 36.6, and is 0.149 points off
        (float("nan"), False),
    ],
)
def test_a_documented_ap_is_reached_within_a_tenth_of_a_point(ap: float, good: bool) -> None:
    assert reached(FULL, bbox=ap) == good


@pytest.mark.parametrize(("shape", "batch"), [("dynamic", 2), ("static", 1), ("static", 2)])
def test_documents_say_nothing_of_more_padding(shape: str, batch: int) -> None:
    assert reached(FULL, shape, batch, bbox=0.1)


@pytest.mark.parametrize("shape", ["static", "dynamic"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("bbox", "segm", "good"),
    [
        (0.55, 0.5, True),
        (0.9, 0.9, True),
        (0.5499, 0.55, False),
        (0.6, 0.4999, False),
        (0.1, 0.1, False),
        (float("nan"), 0.55, False),
    ],
)
def test_others_stay_near_what_their_training_measured(
    shape: str, batch: int, bbox: float, segm: float, good: bool
) -> None:
    assert reached(MINI, shape, batch, bbox=bbox, segm=segm) == good


def test_an_ap_that_is_missing_is_told() -> None:
    with pytest.raises(CheckFailed, match=r"segm AP of PyTorch was not computed, at least 0\.500"):
        check_reached(MINI, {"bbox_mAP_torch": 0.6}, shape="static", batch=2, case_id="x")
    with pytest.raises(CheckFailed, match="bbox AP of PyTorch was not computed, documented"):
        check_documented(FULL, {}, case_id="x")


def test_a_spec_that_says_nothing_is_held_to_nothing() -> None:
    assert reached(ModelSpec("any", "any.py"), bbox=0.01)
    assert reached(ModelSpec("any", "any.py", "full"), bbox=0.01)


@pytest.mark.parametrize("spec", mini_specs(), ids=lambda spec: spec.name)
def test_the_shipped_detectors_are_held_to_a_useful_ap(spec: ModelSpec) -> None:
    bars = {"bbox": 0.40 if "detr" in spec.name else 0.50, "segm": 0.45}
    kinds = {"bbox", "segm"} if spec.masks else {"bbox"}
    assert set(spec.expected_ap) == kinds - ({"bbox"} if spec.name == "solov2" else set())
    for kind, ap in spec.expected_ap.items():
        assert ap - LOST >= bars[kind]
