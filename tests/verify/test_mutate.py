"""Every known fault is caught by the check that it names, and no good graph is refused."""

import onnx
import pytest
from verify_graphs import HEIGHT, WIDTH, detector, feeds, fixed, run, save, to_detections
from verify_samples import TOLERANCE

from pytest_onnxdet.verify.checks import CheckFailed, check_export
from pytest_onnxdet.verify.judge import Sides, judge
from pytest_onnxdet.verify.mutate import mutations, same_outputs

IMAGES = [feeds(seed) for seed in range(2)]
REFERENCE = [one for images in IMAGES for one in to_detections(run(detector(True), images))]


def parity(model):
    outputs = [run(model, images) for images in IMAGES]
    found = [one for values in outputs for one in to_detections(values)]
    judge(Sides(REFERENCE, found, classes=("a", "b", "c")), TOLERANCE).raise_for("case")


def test_the_example_is_worth_breaking():
    """Suppression, clipping and empty slots all happen, or faults in them could not show."""
    parity(detector(True))
    outputs = run(detector(True), IMAGES[0])
    assert 5 < sum(map(len, REFERENCE)) < 24 * 4
    assert (outputs["labels"] == -1).any()
    assert any((one.boxes[:, 2] == WIDTH - 3).any() for one in REFERENCE[::2])


def test_names_are_unique_and_told():
    names = [mutation.name for mutation in mutations()]
    assert len(set(names)) == len(names) >= 10
    assert all(mutation.description for mutation in mutations())


@pytest.mark.parametrize("mutation", mutations(), ids=lambda m: m.name)
def test_caught(mutation, tmp_path):
    good = detector(True)
    before = good.SerializeToString(deterministic=True)
    bad = mutation.apply(good)
    assert good.SerializeToString(deterministic=True) == before
    assert bad is not None
    assert mutation.caught_by in ("parity", "export")
    if mutation.caught_by == "export":
        with pytest.raises(CheckFailed) as caught:
            check_export(save(bad, tmp_path / "bad.onnx"))
    else:
        onnx.checker.check_model(bad, full_check=True)  # the structure is sound, the sums are not
        with pytest.raises(CheckFailed) as caught:
            parity(bad)
    assert caught.value.stage == mutation.caught_by


@pytest.mark.parametrize("mutation", mutations(), ids=lambda m: m.name)
def test_static_graphs_too(mutation, tmp_path):
    shape = (2, 3, HEIGHT, WIDTH)
    bad = mutation.apply(fixed(detector(True)))
    if mutation.name == "baked_batch":
        assert bad is None
    elif mutation.caught_by == "export":
        with pytest.raises(CheckFailed):
            check_export(save(bad, tmp_path / "b.onnx", static_shape=shape))
    else:
        with pytest.raises(CheckFailed):
            parity(bad)


def test_what_does_not_apply_is_left_out():
    plain = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, H, W] input) '
        "=> (float[N, 3, H, W] y) { y = Relu (input) }"
    )
    assert [m.name for m in mutations() if m.apply(plain) is not None] == ["baked_batch"]
    boxes_only = {m.name for m in mutations() if m.apply(detector()) is None}
    assert boxes_only == {"mask_shift", "mask_order"}


def test_a_fault_without_effect_is_told_from_one_that_is_missed():
    swap = next(m for m in mutations() if m.min_batch == 2)
    one = {name: value[:1] for name, value in IMAGES[0].items()}
    good, bad = detector(), swap.apply(detector())
    assert same_outputs(run(good, one), run(bad, one))
    assert not same_outputs(run(good, IMAGES[0]), run(bad, IMAGES[0]))
