"""Every kind of mismatch is found, named and counted; nothing else is."""

import dataclasses
import re

import numpy as np
import pytest
from verify_samples import CLASSES, TOLERANCE, change, detections, empty, join, nudge, take

from pytest_onnxdet.data.detections import Detections, paste_masks
from pytest_onnxdet.reference.ties.rounding import mask_slack
from pytest_onnxdet.verify.compare import compare_detections


def compare(reference, candidate, tolerance=TOLERANCE, **more):
    one = isinstance(reference, Detections)
    ours, theirs = ([reference], [candidate]) if one else (reference, candidate)
    return compare_detections(ours, theirs, tolerance, classes=CLASSES, **more)


def kinds(result):
    return sorted(m.kind for m in result.mismatches)


def test_equal_detections_agree():
    reference = [detections(s, masks=True) for s in range(3)]
    result = compare(reference, reference)
    assert result.ok
    assert result.metrics == {
        "images": 3,
        "detections": 60,
        "matched": 60,
        "missed": 0,
        "extra": 0,
        "order_only": 0,
        "mask_ties": 0,
        "max_box_px": 0.0,
        "max_score": 0.0,
        "max_mask": 0.0,
        "min_mask_iou": 1.0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_noise_within_the_allowances_agrees(seed):
    reference = detections(seed, masks=True)
    rng = np.random.default_rng(seed)
    noisy = change(
        reference,
        boxes=reference.boxes + rng.uniform(-9e-3, 9e-3, reference.boxes.shape).astype(np.float32),
        scores=reference.scores
        + rng.uniform(-9e-5, 9e-5, reference.scores.shape).astype(np.float32),
        mask_probs=reference.mask_probs + np.float32(9e-4),
    )
    result = compare(reference, noisy)
    assert result.ok, result.format()
    assert 0 < result.metrics["max_box_px"] <= 0.01
    assert 0 < result.metrics["max_score"] <= 1e-4
    assert result.metrics["max_mask"] == pytest.approx(9e-4, rel=1e-3)


def test_nothing_found_anywhere_is_not_agreement():
    result = compare([empty(), empty()], [empty(), empty()])
    assert not result.ok
    assert not result.faults
    assert "compared no detection" in result.format()


def test_an_empty_image_among_others_is_fine():
    reference = [empty(), detections(1)]
    assert compare(reference, reference).ok


def test_detections_in_an_empty_image_are_extra():
    result = compare([empty(), detections(1)], [detections(2, count=3), detections(1)])
    assert kinds(result) == ["extra"] * 3
    assert result.extra == 3


def test_a_missed_detection():
    reference = detections(3)
    result = compare(reference, take(reference, np.delete(np.arange(20), 7)))
    assert kinds(result) == ["missed"]
    assert result.missed == 1
    assert result.mismatches[0].reference == 7
    assert not result.ok


def test_all_missed():
    result = compare(detections(3), empty())
    assert kinds(result) == ["missed"] * 20
    assert "not one detection was matched" in result.format()


def test_an_extra_and_a_duplicate_are_told_apart():
    reference = detections(4)
    twin = change(take(reference, [5]), scores=np.float32([0.3]))
    lone = Detections(np.float32([[200, 200, 220, 220]]), np.float32([0.25]), np.zeros(1, np.int64))
    result = compare(reference, join(join(reference, twin), lone))
    assert kinds(result) == ["duplicate", "extra"]
    assert result.extra == 2
    duplicate = next(m for m in result.mismatches if m.kind == "duplicate")
    assert "reference #5" in duplicate.note


def test_a_label_flip_is_one_fault_not_two():
    reference = detections(5)
    flipped = reference.labels.copy()
    flipped[2] = (flipped[2] + 1) % 3
    result = compare(reference, change(reference, labels=flipped))
    assert kinds(result) == ["label_flip"]
    assert (result.missed, result.extra) == (1, 1)
    flip = result.mismatches[0]
    assert flip.label == CLASSES[reference.labels[2]]
    assert f"now {CLASSES[flipped[2]]}" in flip.note


def test_a_label_without_a_name():
    reference = detections(5, count=1)
    result = compare(reference, change(reference, labels=np.int64([7])))
    assert "class 7" in result.mismatches[0].note


@pytest.mark.parametrize(
    ("field", "by", "kind", "key"),
    [
        ("boxes", np.float32([0, 0.02, 0, 0]), "box_shift", "max_box_px"),
        ("scores", np.float32(2e-4), "score_drift", "max_score"),
    ],
)
def test_a_drift_beyond_the_allowance(field, by, kind, key):
    reference = detections(6)
    result = compare(reference, nudge(reference, field, 4, by))
    assert kinds(result) == [kind]
    assert result.mismatches[0].reference == 4
    assert result.metrics[key] == pytest.approx(float(np.max(by)), rel=0.02)
    assert result.matched == 20


def test_the_allowance_is_inclusive_and_may_be_zero():
    reference = detections(6)
    exact = dataclasses.replace(TOLERANCE, box_px=0.0, box_rel=0.0, score=0.0)
    assert compare(reference, reference, exact).ok
    shifted = nudge(reference, "boxes", 0, np.float32(1e-3))
    assert kinds(compare(reference, shifted, exact)) == ["box_shift"]


def test_masks():
    reference = detections(7, masks=True)
    probs = reference.mask_probs.copy()
    probs[3, 2, 2] += 2e-3
    pasted = reference.masks.copy()
    pasted[8, :4] = ~pasted[8, :4]
    result = compare(reference, change(reference, mask_probs=probs, masks=pasted))
    assert kinds(result) == ["mask_drift", "mask_iou"]
    assert {m.kind: m.reference for m in result.mismatches} == {"mask_drift": 3, "mask_iou": 8}
    assert "256 of" in next(m for m in result.mismatches if m.kind == "mask_iou").note


def test_masks_on_one_side_only_or_of_another_size():
    reference = detections(7, masks=True)
    assert kinds(compare(reference, detections(7))) == ["mask_iou"] * 20
    assert kinds(compare(detections(7), reference)) == ["mask_iou"] * 20
    small = change(reference, masks=reference.masks[:, :60], mask_probs=reference.mask_probs[:, :6])
    assert kinds(compare(reference, small)) == ["mask_drift"] * 20 + ["mask_iou"] * 20


def test_two_empty_masks_are_equal():
    reference = detections(7, masks=True)
    blank = change(reference, masks=np.zeros_like(reference.masks))
    assert compare(blank, blank).metrics["min_mask_iou"] == 1.0


def pasted(reference, threshold=0.5):
    pytest.importorskip("mmcv._ext")
    masks = paste_masks(reference.mask_probs, reference.boxes, (64, 64), threshold)
    return change(reference, masks=masks)


def test_pixels_at_the_threshold():
    """A mask that is right up to ties is told apart, and accepted."""
    probs = np.full((2, 28, 28), 0.9, np.float32)
    probs[:, 10, 10], probs[:, 12, 12] = 0.50002, 0.5005
    boxes = np.float32([[2, 2, 30, 30], [32, 32, 60, 60]])
    reference = pasted(change(take(detections(13), range(2)), boxes=boxes, mask_probs=probs))
    slightly = pasted(reference, 0.50004)
    result = compare(reference, slightly)
    assert kinds(result) == ["mask_tie"] * 2
    assert result.ok
    assert result.metrics["min_mask_iou"] < 0.999
    assert result.metrics["mask_ties"] == 2
    assert "all within rounding of the threshold" in result.format()
    assert "(at least 0.999 allowed)" in result.format()
    beyond = compare(reference, pasted(reference, 0.5009))  # within the allowance, and no tie
    assert kinds(beyond) == ["mask_iou"] * 2 and not beyond.ok


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_pixels_tie_with_the_threshold_that_the_masks_are_cut_at(threshold):
    """Of a threshold other than 0.5: a mask cut at 0.5 ties with nothing, at its own it does."""
    reference = dataclasses.replace(detections(3, masks=True), mask_threshold=threshold)
    reference = pasted(reference, threshold)
    slightly = pasted(reference, threshold + float(mask_slack(threshold)) / 2)
    assert set(kinds(compare(reference, slightly))) <= {"mask_tie"}
    assert set(kinds(compare(reference, pasted(reference)))) == {"mask_iou"}
    # Probabilities that are cut elsewhere than they say prove nothing.
    wrong = dataclasses.replace(reference, mask_threshold=0.5)
    assert "mask_iou" in kinds(compare(wrong, pasted(reference)))


def test_masks_within_the_references_range():
    """What float ties leave open is accepted, a step beyond is not."""
    reference = detections(13, masks=True)
    wide = np.stack([reference.mask_probs, np.minimum(reference.mask_probs + 0.3, 1)], axis=1)
    upper, lower = (
        pasted(
            change(
                reference, mask_probs=np.clip(reference.mask_probs + by, 0, 1).astype(np.float32)
            )
        )
        for by in (0.3, -0.01)
    )
    open_range = change(pasted(reference), mask_range=wide.astype(np.float32))
    result = compare(open_range, upper)
    assert result.ok
    assert set(kinds(result)) == {"mask_tie"}
    assert not compare(pasted(reference), upper).ok
    assert {"mask_drift", "mask_iou"} <= set(kinds(compare(open_range, lower)))
    shut = change(reference, mask_range=np.stack([reference.mask_probs] * 2, axis=1))
    assert compare(pasted(shut), pasted(reference)).ok
    broken = change(pasted(reference), mask_probs=np.full_like(reference.mask_probs, np.nan))
    assert not compare(open_range, broken).ok


def test_other_pixels_are_no_ties():
    reference = pasted(detections(13, masks=True))
    for other in (
        pasted(reference, 0.51),
        pasted(reference, 0.49),
        change(reference, masks=~reference.masks),
    ):
        assert set(kinds(compare(reference, other))) & {"mask_iou"}
    nothing = change(reference, masks=np.zeros_like(reference.masks))
    assert not compare(reference, nothing).ok


@pytest.mark.parametrize("field", ["boxes", "scores"])
def test_nan_never_agrees(field):
    reference = detections(8)
    broken = nudge(reference, field, 1, np.float32(np.nan))
    assert not compare(reference, broken).ok
    assert not compare(
        reference, change(reference, mask_probs=None, **{field: broken.__dict__[field]})
    ).ok
    assert not compare(broken, broken).ok


def test_nan_in_masks_never_agrees():
    reference = detections(8, masks=True)
    probs = reference.mask_probs.copy()
    probs[0, 0, 0] = np.nan
    broken = change(reference, mask_probs=probs)
    assert kinds(compare(reference, broken)) == ["mask_drift"]
    assert kinds(compare(broken, broken)) == ["mask_drift"]


def test_ties_may_swap_places():
    reference = detections(9)
    scores = reference.scores.copy()
    scores[4] = scores[5] + np.float32(5e-5)
    reference = change(reference, scores=scores)
    order = np.arange(20)
    order[[4, 5]] = 5, 4
    result = compare(reference, take(reference, order))
    assert result.ok
    assert kinds(result) == ["order_only"]
    assert result.order_only == 1


def test_others_may_not():
    reference = detections(9)
    order = np.arange(20)
    order[[4, 5]] = 5, 4
    result = compare(reference, take(reference, order))
    assert kinds(result) == ["order"]
    assert result.mismatches[0].reference == 5
    assert not result.ok


def test_reversed_order_is_a_fault_for_all_but_the_best():
    reference = detections(9)
    assert kinds(compare(reference, take(reference, range(19, -1, -1)))) == ["order"] * 19


def test_a_chain_of_small_steps_is_not_a_tie():
    # Each neighbour ties with the next, but first and last do not: moving one across is a fault.
    scores = np.float32(0.5) - np.float32(6e-5) * np.arange(4, dtype=np.float32)
    reference = change(detections(9, count=4), scores=scores)
    assert compare(reference, take(reference, [1, 0, 3, 2])).ok
    assert not compare(reference, take(reference, [3, 0, 1, 2])).ok


def full_and_cut(gap):
    """A reference cut at 20 where two boxes compete for the last place, ``gap`` apart."""
    reference = detections(10, count=21)
    scores = reference.scores.copy()
    scores[20] = scores[19] - np.float32(gap)
    reference = change(reference, scores=scores)
    return take(reference, range(20)), take(reference, [*range(19), 20])


def test_a_tie_at_the_cut_is_order_only():
    ours, theirs = full_and_cut(1e-5)
    result = compare(ours, theirs, max_per_img=20)
    assert result.ok, result.format()
    assert kinds(result) == ["order_only"]
    assert (result.missed, result.extra, result.order_only) == (0, 0, 1)


@pytest.mark.parametrize("cut", [None, 21, 100])
def test_without_a_cut_there_the_same_is_a_fault(cut):
    ours, theirs = full_and_cut(5e-5)
    assert kinds(compare(ours, theirs, max_per_img=cut)) == ["extra", "missed"]


def test_at_the_cut_scores_must_tie_and_counts_agree():
    ours, theirs = full_and_cut(9e-5)  # within the allowance for scores, and no rounding
    assert kinds(compare(ours, theirs, max_per_img=20)) == ["extra", "missed"]
    ours, _ = full_and_cut(5e-5)
    assert kinds(compare(ours, take(ours, range(19)), max_per_img=20)) == ["missed"]


def test_away_from_the_cut_there_is_no_leniency():
    reference = detections(11, count=20)
    far = change(reference, boxes=reference.boxes.copy())
    far.boxes[3] += 300
    assert kinds(compare(reference, far, max_per_img=20)) == ["extra", "missed"]


def test_if_all_tie_at_the_cut_nothing_was_compared():
    reference = change(detections(12), scores=np.full(20, 0.5, np.float32))
    elsewhere = change(reference, boxes=reference.boxes + 300)
    result = compare(reference, elsewhere, max_per_img=20)
    assert result.vacuous
    assert not result.ok


@pytest.mark.parametrize(("threshold", "wanted"), [(0.0, ["extra", "missed"]), (0.05, [])])
def test_scores_below_the_least_are_not_compared(threshold, wanted):
    reference = detections(13, count=20)
    reference.scores[-1], reference.scores[-2] = 0.01, 0.03
    far = change(reference, boxes=reference.boxes.copy())
    far.boxes[-1] += 300
    allowed = dataclasses.replace(TOLERANCE, min_score=threshold)
    result = compare_detections([reference], [far], allowed)
    assert kinds(result) == wanted
    assert result.detections == 20 - 2 * (threshold > 0)
    far.scores[-1] = 0.06  # the candidate is sure of it
    assert "extra" in kinds(compare_detections([reference], [far], allowed))


def test_lists_of_different_length():
    with pytest.raises(ValueError, match="answered 1 image"):
        compare([empty(), empty()], [empty()])


def test_the_message():
    ours = [detections(s) for s in range(4)]
    theirs = list(ours)
    theirs[2] = nudge(ours[2], "boxes", 6, np.float32([0.5, 0, 0, 0]))
    theirs[3] = take(ours[3], range(12))
    text = compare(ours, theirs, images=["a.png", "b.png", "c.png", "d.png"]).format(limit=3)
    lines = text.splitlines()
    assert lines[0] == "9 of 80 reference detections differ (11.2%), 0 extra, in 2 of 4 images"
    assert re.search(
        r"greatest box difference: image 2 \(c.png\), \w+, reference #6, candidate #6: "
        r"0\.5\d* px \(up to 0.01 px allowed\)",
        text,
    )
    at = lines.index("  missed: 8")
    assert len([line for line in lines[at + 1 :] if line.startswith("    image 3 (d.png)")]) == 3
    assert lines[at + 4] == "    … and 5 more"


@pytest.mark.parametrize("seed", range(30))
def test_any_one_fault_is_caught(seed):
    """A random fault in a random place, however the detections lie."""
    rng = np.random.default_rng(seed)
    reference = detections(seed, count=int(rng.integers(2, 60)), side=int(rng.integers(20, 400)))
    at = int(rng.integers(len(reference)))
    sign = rng.choice([-1, 1])
    broken = [
        nudge(reference, "boxes", at, np.float32(sign * rng.uniform(0.02, 30))),
        nudge(reference, "scores", at, np.float32(sign * rng.uniform(2e-4, 0.5))),
        nudge(reference, "labels", at, int(rng.integers(1, 3))),
        take(reference, np.delete(np.arange(len(reference)), at)),
        join(reference, take(reference, [at])),
    ]
    for number, candidate in enumerate(broken):
        assert compare([reference], [reference]).ok
        assert not compare([reference], [candidate]).ok, number
