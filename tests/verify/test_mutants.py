"""Every known fault is caught by the check that it names, and no good graph is refused."""

import numpy as np
import onnx
import pytest
from verify_graphs import HEIGHT, WIDTH, detector, feeds, fixed, run, save, to_detections
from verify_samples import TOLERANCE

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.testing import tiny
from pytest_onnxdet.verify.checks import CheckFailed, check_export
from pytest_onnxdet.verify.judge import Sides, judge
from pytest_onnxdet.verify.mutants import operators
from pytest_onnxdet.verify.selftest import choose_places, same_outputs
from pytest_onnxdet.verify.values import check_values

IMAGES = [feeds(seed, batch=3) for seed in range(2)]
REFERENCE = [one for images in IMAGES for one in to_detections(run(detector(True), images))]
BY_NAME = {operator.name: operator for operator in operators()}
#: What any detector shows, at any of a fault's places: the example has each of them. Padding is
#: not among them: the example finds nothing at an image's border, so its value is equivalent there.
NAMES = """
weight scale_weight_0.9 input_mean input_std input_bgr input_right no_clip
half_clip clip_minus_one padded_shape swapped_shape swap_xy box_shift plus_one_width box_scale
box_rounded box_fp16 nms_threshold nms_overlap batch_order batch_rolled rows_repeat_first
rows_repeat_second first_shape shapes_rolled labels_rolled masks_rolled ghosts ghosts_faint
dropped doubled cut ascending second_first label_shift label_swap empty_as_zero score_shift
score_scale score_fp16 mask_shift mask_scale mask_order mask_flipped mask_moved
sigmoid_approximated topk_k custom_operator output_name label_type baked_batch
"""
SHOWN = [BY_NAME[name] for name in NAMES.split()]


def parity(model):
    results = []
    for images in IMAGES:
        outputs = run(model, images)
        metas = [{}] * len(images["input"])
        check_values(outputs, Batch(images["input"], images["image_shape"], metas), classes=3)
        results += to_detections(outputs)
    judge(Sides(REFERENCE, results, classes=("a", "b", "c")), TOLERANCE).raise_for("case")


def test_the_example_is_worth_breaking():
    """Suppression, clipping and empty slots all happen, or faults in them could not show."""
    parity(detector(True))
    outputs = run(detector(True), IMAGES[0])
    assert 5 < sum(map(len, REFERENCE)) < 24 * 6
    assert (outputs["labels"] == -1).any()
    assert any((one.boxes[:, 2] == WIDTH - 3).any() for one in REFERENCE[::3])


def test_names_are_unique_and_told():
    assert len(BY_NAME) == len(operators()) >= 100
    assert all(operator.description and operator.group for operator in operators())
    # The id of a test is the model, a dash and the fault.
    assert not any(set("-@[] ") & set(name) for name in BY_NAME)
    groups = {operator.group for operator in operators()}
    assert groups >= {"inputs", "weights", "decoding", "suppression", "batch", "slots", "masks"}


@pytest.mark.parametrize("operator", SHOWN, ids=lambda o: o.name)
def test_caught(operator, tmp_path):
    good = detector(True)
    before = good.SerializeToString(deterministic=True)
    bad = operator.apply(good)
    assert good.SerializeToString(deterministic=True) == before
    assert bad is not None
    if operator.caught_by == "export":
        with pytest.raises(CheckFailed) as caught:
            check_export(save(bad, tmp_path / "bad.onnx"))
        assert caught.value.stage == "export"
    else:
        onnx.checker.check_model(bad, full_check=True)  # the structure is sound, the sums are not
        with pytest.raises(CheckFailed) as caught:
            parity(bad)
        assert caught.value.stage in ("parity", "contract")


@pytest.mark.parametrize("operator", SHOWN, ids=lambda o: o.name)
def test_static_graphs_too(operator, tmp_path):
    shape = (3, 3, HEIGHT, WIDTH)
    bad = operator.apply(fixed(detector(True), 3))
    if operator.name == "baked_batch":
        assert bad is None
    elif operator.caught_by == "export":
        with pytest.raises(CheckFailed):
            check_export(save(bad, tmp_path / "b.onnx", static_shape=shape))
    else:
        with pytest.raises(CheckFailed):
            parity(bad)


@pytest.mark.parametrize("operator", operators(), ids=lambda o: o.name)
def test_every_place_of_a_fault_is_seen_or_changes_nothing(operator):
    """What applies to either example runs, and is refused unless it gives the same bits."""
    wanted = [run(detector(True), images) for images in IMAGES]
    for place in operator.places(detector(True)):
        bad = operator.apply(detector(True), place)
        if bad is None or operator.caught_by == "export":
            continue
        got = [run(bad, images) for images in IMAGES]
        if not all(map(same_outputs, wanted, got)) and operator.name not in SMALL:
            with pytest.raises(CheckFailed):
                parity(bad)
    image = tiny.feeds([{(1, 1): ("red", 0.9)}, {(2, 2): ("white", 0.8)}, {}], (32, 28))
    for place in operator.places(tiny.model()):
        bad = operator.apply(tiny.model(), place)
        if bad is not None and operator.caught_by != "export":
            assert run(bad, image).keys() == {"dets", "labels"}


#: Of the example's scores these move none by the allowance for detections: that of raw outputs,
#: which sees them in a detector, is not asked here.
SMALL = ("input_fp16", "round_weight_fp16", "scale_weight_1.0004", "mask_fp16")


def test_what_does_not_apply_is_left_out():
    plain = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, H, W] input) '
        "=> (float[N, 3, H, W] y) { y = Relu (input) }"
    )
    named = {o.name for o in operators() if o.applies(plain)}
    inputs = {o.name for o in operators() if o.group == "inputs"}
    assert named == inputs | {"baked_batch", "relu_leaky", "relu_clipped"}
    boxes_only = {o.name for o in operators() if o.group == "masks" and o.applies(detector())}
    assert not boxes_only


def test_a_fault_without_effect_is_told_from_one_that_is_missed():
    swap = BY_NAME["batch_order"]
    one = {name: value[:1] for name, value in IMAGES[0].items()}
    good, bad = detector(), swap.apply(detector())
    assert same_outputs(run(good, one), run(bad, one))
    assert not same_outputs(run(good, IMAGES[0]), run(bad, IMAGES[0]))
    three = BY_NAME["rows_repeat_second"].apply(detector())
    two = {name: value[:2] for name, value in IMAGES[0].items()}
    assert same_outputs(run(good, two), run(three, two))
    assert not same_outputs(run(good, IMAGES[0]), run(three, IMAGES[0]))


def test_places_are_the_same_every_time_and_differ_between_models():
    model = tiny.model()
    scale = BY_NAME["weight"]
    assert scale.places(model) == ("means", "logits")
    assert choose_places(scale, model, "a") == choose_places(scale, model, "a")
    assert {choose_places(scale, model, name)[0] for name in "abcdefgh"} == {"means", "logits"}
    assert sorted(choose_places(scale, model, "a", 4)) == ["logits", "means"]


def test_a_shared_constant_changes_for_one_node_alone():
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] input) => (float[N] y) '
        "<float two = {2.0}> { a = Mul (input, two) y = Add (a, two) }"
    )
    model = onnx.parser.parse_model(text)
    for node, name in zip(model.graph.node, ("mul", "add"), strict=True):
        node.name = name
    bad = BY_NAME["scale_factor"].apply(model)
    output = run(bad, {"input": np.ones(1, np.float32)})["y"]
    assert output == pytest.approx(2.02 + 2)


def test_raw_outputs_have_the_same_fault_where_the_name_says_the_same_node():
    assert BY_NAME["weight"].in_raw("/Conv_3")
    assert BY_NAME["resize_mode"].in_raw("/neck/Resize")
    assert BY_NAME["scale_term"].in_raw("/bbox_head/gn/Add#1")
    assert not BY_NAME["exp_softplus"].in_raw("/Exp_1")
    assert not BY_NAME["box_shift"].in_raw("")
    assert BY_NAME["input_mean"].in_raw("")
