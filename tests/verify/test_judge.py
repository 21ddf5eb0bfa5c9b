"""The judge of parity: one message, the figures, every image, and a hint where to look."""

import math

import numpy as np
import pytest
from verify_samples import CLASSES, TOLERANCE, detections, empty, nudge, take

from pytest_onnxdet.data.detections import Detections, paste_masks
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.judge import Sides, TieProofs, judge
from pytest_onnxdet.verify.verdict import DIFFERENT, EMPTY, SAME, TIED

GOOD = [detections(s) for s in range(4)]


def ask(candidate, reference=GOOD, alternatives=None, max_tied=1.0, **more):
    proofs = None if alternatives is None else TieProofs(alternatives, max_tied)
    return judge(Sides(reference, candidate, classes=CLASSES, **more), TOLERANCE, proofs)


def check(candidate, reference=GOOD, locate=None, **more):
    verdict = ask(candidate, reference, **more)
    verdict.raise_for("case-1", locate)
    assert verdict.ok and not verdict.message
    return verdict.metrics


def failure(*args, looked_for=True, **more):
    with pytest.raises(CheckFailed) as caught:
        check(*args, **more)
    assert caught.value.stage == "parity"
    assert str(caught.value) == caught.value.message
    assert caught.value.message.startswith("case-1: ")
    assert ("look at: lowering" in caught.value.message.splitlines()[-1]) is looked_for
    return caught.value


def test_the_figures():
    raw = {"cls": np.ones((2, 3), np.float32)}
    near = {"cls": np.full((2, 3), 1.0005, np.float32)}
    figures = check(GOOD, singles=GOOD, raw_reference=raw, raw=near)
    assert figures["matched"] == figures["detections"] == 80
    assert figures["raw_max_abs"] == pytest.approx(5e-4, rel=1e-3)
    assert figures["max_mask"] is None
    assert check(GOOD)["raw_max_abs"] is None


def test_a_difference_is_reported_with_its_figures():
    bad = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([1, 0, 0, 0]))]
    error = failure(bad, images=["a", "b", "c", "d.png"])
    assert "box_shift: 1" in error.message
    assert "image 3 (d.png)" in error.message
    assert error.metrics["max_box_px"] == pytest.approx(1, rel=1e-3)
    assert error.metrics["raw_max_abs"] is None


def test_nothing_detected_fails():
    assert "compared no detection" in failure([empty()], [empty()]).message


def test_too_few_images_fail():
    assert "answered 3 image(s)" in failure(GOOD[:3]).message


def test_a_batch_that_is_not_its_singles():
    swapped = [GOOD[1], GOOD[0], *GOOD[2:]]
    error = failure(GOOD, singles=swapped)
    assert "a batch against its images one by one: " in error.message
    assert error.metrics["missed"] == 0


@pytest.mark.parametrize(
    ("raw", "bad", "hint"),
    [
        (1.0, True, "heads' outputs agree, so decoding or post-processing"),
        (2.0, True, "heads' outputs differ already"),
        (2.0, False, "heads' outputs differ already"),
    ],
)
def test_raw_outputs_narrow_the_search(raw, bad, hint):
    candidate = [take(one, range(19)) for one in GOOD] if bad else GOOD
    ours, theirs = {"cls": np.ones(3)}, {"cls": np.full(3, raw)}
    error = failure(candidate, raw_reference=ours, raw=theirs)
    assert hint in error.message
    assert ("raw outputs of the heads: 1 of 1" in error.message) is (raw != 1)


def test_one_side_of_raw_outputs_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="both or neither"):
        check(GOOD, raw={"cls": np.ones(3)})


def test_the_stage_is_asked_for_on_failure_only():
    asked = []

    def locate():
        asked.append(1)
        return "stage to blame: export"

    check(GOOD, locate=locate)
    assert not asked
    text = failure(GOOD[:3], looked_for=False, locate=locate).message
    assert "\nstage to blame: export" in text
    assert "look at: " not in text  # it was named: nobody has to look for it


def test_a_search_that_fails_does_not_hide_the_fault():
    def locate():
        raise RuntimeError("no memory")

    text = failure(GOOD[:3], locate=locate).message
    assert "answered 3 image(s)" in text
    assert "RuntimeError: no memory" in text


def test_a_proven_tie_is_accepted_and_counted():
    """Deciding ties as the candidate did, the reference finds what the candidate finds."""
    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    near = nudge(other[3], "boxes", 2, np.float32([0.005, 0, 0.005, 0]))
    figures = check(other, alternatives=lambda index, candidate, singly: [GOOD[index], near])
    assert (figures["tied_images"], figures["tied_detections"]) == (1, 2)  # one missed, one extra
    assert figures["max_box_px"] == pytest.approx(0.005, abs=1e-4)  # what is left is told
    assert figures["missed"] == figures["extra"] == 0
    assert check(GOOD, alternatives=lambda index, candidate, singly: [])["tied_images"] == 0


@pytest.mark.parametrize("again", [[], [GOOD[3]]])
def test_a_difference_that_is_not_proven_a_tie_fails(again):
    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    error = failure(other, alternatives=lambda index, candidate, singly: again)
    assert "image 3" in error.message
    assert error.metrics["tied_images"] == 0


def test_a_batch_that_ties_otherwise_than_its_singles_needs_both_proven():
    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    runs = {False: GOOD, True: other}
    assert check(
        GOOD, singles=other, alternatives=lambda index, candidate, singly: [runs[singly][index]]
    )
    error = failure(
        GOOD, singles=other, alternatives=lambda index, candidate, singly: [GOOD[index]]
    )
    assert "one by one" in error.message


def test_ties_cannot_make_up_for_finding_nothing():
    nothing = [empty() for _ in GOOD]
    error = failure(nothing, alternatives=lambda index, candidate, singly: [empty()])
    assert error.metrics["tied_images"] == 0


def test_more_proven_ties_than_the_spec_expects_fail():
    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    runs = {"alternatives": lambda index, candidate, singly: [other[index]]}
    assert check(other, max_tied=0.25, **runs)["tied_images"] == 1
    assert check(other, max_tied=0.01, **runs)["tied_images"] == 1  # of four images, one
    error = failure(other, max_tied=0.0, **runs)
    assert "float ties explain 1 of 4 image(s): up to 0 are likely where" in error.message
    both = [nudge(GOOD[0], "boxes", 2, np.float32([9, 0, 9, 0])), *other[1:]]
    error = failure(
        both, max_tied=0.001, alternatives=lambda index, candidate, singly: [both[index]]
    )
    assert "float ties explain 2 of 4 image(s): up to 1 are likely where the" in error.message


@pytest.mark.parametrize(
    ("share", "images", "allowed"),
    [(0.05, 6, 3), (0.05, 73, 12), (0.05, 500, 45), (0.35, 6, 6), (0.35, 73, 41), (0.01, 1, 1)],
)
def test_a_few_images_may_hold_more_ties_than_their_share(share, images, allowed):
    """Of a binomial distribution: so many or fewer in all but one of 10,000 runs."""
    assert TieProofs(lambda *_: [], share).allowed(images) == allowed
    chance = sum(math.comb(images, k) * share**k * (1 - share) ** (images - k)
                 for k in range(allowed + 1))  # fmt: skip
    assert chance >= 0.9999


def test_with_a_proof_at_hand_a_tie_at_the_cut_needs_it_too():
    last = len(GOOD[0]) - 1
    moved = nudge(GOOD[0], "boxes", last, np.float32([300, 0, 300, 0]))
    other = [moved, *GOOD[1:]]
    assert check(other, max_per_img=len(GOOD[0]))["order_only"] == 1
    failure(other, max_per_img=len(GOOD[0]), alternatives=lambda index, candidate, singly: [])


def test_every_image_gets_a_verdict_of_its_own():
    other = nudge(GOOD[1], "boxes", 2, np.float32([9, 0, 9, 0]))
    reference, names = [*GOOD[:3], empty()], ["a.png", "b.png", "c.png", "d.png"]
    candidate = [GOOD[0], other, take(GOOD[2], range(19)), empty()]
    verdict = ask(
        candidate,
        reference,
        alternatives=lambda index, candidate, singly: [other] if index == 1 else [],
        images=names,
    )
    assert [image.outcome for image in verdict.images] == [SAME, TIED, DIFFERENT, EMPTY]
    assert [image.name for image in verdict.images] == names
    assert [image.index for image in verdict.tied] == [1]
    assert verdict.tied[0].reason == (
        "missed: 1, extra: 1, the reference, deciding float ties alike, finds the same"
    )
    assert verdict.images[2].reason == "missed: 1"
    assert not verdict.ok and len(verdict.faults) == 1


def test_an_image_of_nothing_fails_where_every_one_has_to_count():
    nothing = [GOOD[0], empty()]
    assert ask(nothing, nothing).ok
    verdict = ask(nothing, nothing, every_image=True, images=["a.png", "b.png"])
    assert verdict.faults == ("the reference finds nothing in b.png",)
    assert not verdict.detections.faults


def test_a_search_for_a_proof_that_fails_does_not_hide_the_fault():
    def alternatives(index, candidate, singly):
        raise RuntimeError("no memory")

    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    text = failure(other, alternatives=alternatives).message
    assert "missed: 1" in text
    assert text.count("RuntimeError: no memory") == 1
    assert "no memory" not in ask(GOOD, alternatives=alternatives).message


def masked(at):
    """One detection of 28 x 28 pixels, a cell of its mask's grid each; one cell of this value."""
    pytest.importorskip("mmcv._ext")
    box, probs = np.float32([[2, 2, 30, 30]]), np.full((1, 28, 28), 0.9, np.float32)
    probs[0, 10, 10] = at
    masks = paste_masks(probs, box, (32, 32))
    return [Detections(box, np.float32([0.9]), np.int64([0]), masks, probs)]


@pytest.mark.parametrize("proofs", [None, lambda index, candidate, singly: []])
def test_a_mask_pixel_within_rounding_of_the_threshold_is_a_proven_tie(proofs):
    verdict = ask(masked(0.49999), masked(0.50001), alternatives=proofs)
    assert verdict.ok
    assert verdict.metrics["mask_ties"] == 1
    assert verdict.metrics["min_mask_iou"] < TOLERANCE.mask_iou
    (image,) = verdict.tied
    assert image.reason == "1 mask(s) differ only in pixels that tie at the threshold"
    assert ask(masked(0.6), masked(0.6), alternatives=proofs).metrics["mask_ties"] == 0


@pytest.mark.parametrize("proofs", [None, lambda index, candidate, singly: []])
@pytest.mark.parametrize("at", [0.5004, 0.51, 0.9])
def test_a_mask_pixel_that_does_not_tie_is_refused(proofs, at):
    """Also within the allowance for probabilities, which is no statement about ties."""
    verdict = ask(masked(0.4996), masked(at), alternatives=proofs)
    assert not verdict.ok
    assert "mask_iou: 1" in verdict.message
    assert verdict.metrics["mask_ties"] == 0


def test_a_judge_that_is_not_thorough_asks_no_more_than_it_needs():
    """The verdict is the same: it is red after one image without a proof, or for raw outputs."""
    bad = [nudge(one, "boxes", 0, np.float32([1, 0, 0, 0])) for one in GOOD]
    asked = []

    def alternatives(index, candidate, singly):
        asked.append(index)
        return [candidate] if index == 0 else []

    proofs = TieProofs(alternatives, thorough=False)
    assert not judge(Sides(GOOD, bad), TOLERANCE, proofs).ok
    assert asked == [0, 1]
    asked.clear()
    assert not judge(Sides(GOOD, bad), TOLERANCE, TieProofs(alternatives)).ok
    assert asked == [0, 1, 2, 3]
    asked.clear()
    raw, other = ({"cls": np.full((1, 2), value, np.float32)} for value in (1, 2))
    assert not judge(Sides(GOOD, bad, raw_reference=raw, raw=other), TOLERANCE, proofs).ok
    assert not asked
    proven = TieProofs(lambda index, candidate, singly: [candidate], thorough=False)
    assert judge(Sides(GOOD, bad), TOLERANCE, proven).ok
