"""The parity and accuracy checks: one message, the figures, and a hint where to look."""

import json
import warnings

import numpy as np
import pytest
from verify_samples import CLASSES, TOLERANCE, change, detections, empty, nudge, take

from pytest_onnxdet.verify.accuracy import AccuracyError, average_precision, compare_ap
from pytest_onnxdet.verify.checks import CheckFailed, check_accuracy, check_parity

GOOD = [detections(s) for s in range(4)]


def check(candidate, reference=GOOD, **more):
    return check_parity(
        reference, candidate, tolerance=TOLERANCE, classes=CLASSES, case_id="case-1", **more
    )


def failure(*args, **more):
    with pytest.raises(CheckFailed) as caught:
        check(*args, **more)
    assert caught.value.stage == "parity"
    assert str(caught.value) == caught.value.message
    assert caught.value.message.startswith("case-1: ")
    assert "look at: lowering" in caught.value.message.splitlines()[-1]
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
    assert "\nstage to blame: export\n" in failure(GOOD[:3], locate=locate).message


def test_a_search_that_fails_does_not_hide_the_fault():
    def locate():
        raise RuntimeError("no memory")

    text = failure(GOOD[:3], locate=locate).message
    assert "answered 3 image(s)" in text
    assert "RuntimeError: no memory" in text


class Annotations:
    """Ground truth with CocoDataset's attributes, in a COCO of our own making."""

    def __init__(self, folder, truth, crowd=False):
        from pycocotools.coco import COCO

        self.img_ids = [7, 3, 11, 20][: len(truth)]
        self.cat_ids = [2, 5, 9]
        objects = []
        for image, one in zip(self.img_ids, truth, strict=True):
            for box, label in zip(one.boxes.tolist(), one.labels.tolist(), strict=True):
                x1, y1, x2, y2 = box
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": image,
                        "category_id": self.cat_ids[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                    }
                )
        path = folder / "truth.json"
        path.write_text(
            json.dumps(
                {
                    "images": [{"id": i, "height": 64, "width": 64} for i in self.img_ids],
                    "categories": [
                        {"id": i, "name": n} for i, n in zip(self.cat_ids, CLASSES, strict=True)
                    ],
                    "annotations": objects,
                }
            )
        )
        self.coco = COCO(str(path))


@pytest.fixture
def truth(tmp_path, capsys):
    made = Annotations(tmp_path, GOOD)
    capsys.readouterr()  # what pycocotools says while it reads
    return made


def with_masks(found):
    masks = np.zeros((len(found), 64, 64), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, found.boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return change(found, masks=masks)


def shaky(found, seed, by):
    rng = np.random.default_rng(seed)
    return change(found, boxes=found.boxes + rng.normal(0, by, found.boxes.shape).astype("f4"))


def ap_check(truth, reference, candidate, **more):
    return check_accuracy(
        truth, reference, candidate, tolerance=TOLERANCE, case_id="case-1", **more
    )


def test_ap_of_the_truth_is_one(truth, capsys):
    assert average_precision(truth, GOOD) == 1.0
    assert capsys.readouterr().out == ""
    assert ap_check(truth, GOOD, GOOD) == {
        "bbox_mAP_torch": 1.0,
        "bbox_mAP": 1.0,
        "bbox_mAP_delta": 0.0,
    }


def test_ap_is_not_rounded(truth):
    value = average_precision(truth, [shaky(one, 1, 1.0) for one in GOOD])
    assert 0.1 < value < 0.9
    assert round(value, 4) != value


def test_masks_are_scored_as_masks(truth):
    found = [with_masks(one) for one in GOOD]
    figures = ap_check(truth, found, found)
    assert figures["segm_mAP_torch"] > 0.5
    assert figures["segm_mAP_delta"] == 0
    worse = [change(one, masks=np.roll(one.masks, 3, axis=2)) for one in found]
    with pytest.raises(CheckFailed, match="segm AP is"):
        ap_check(truth, found, worse)
    assert ap_check(truth, found, worse, metrics=["bbox"])["bbox_mAP_delta"] == 0


@pytest.mark.parametrize("better", [False, True])
def test_ap_may_be_neither_lower_nor_higher(truth, better):
    ours, theirs = [shaky(one, 1, 0.5) for one in GOOD], GOOD
    if not better:
        ours, theirs = theirs, ours
    with pytest.raises(CheckFailed) as caught:
        ap_check(truth, ours, theirs)
    error = caught.value
    assert error.stage == "accuracy"
    assert error.message.startswith("case-1: bbox AP is ")
    assert ("+0." in error.message) is better
    assert "up to 0.0005 allowed in either direction" in error.message
    assert (error.metrics["bbox_mAP_delta"] > 0) is better


def test_ap_zero_proves_nothing(truth):
    wrong = [change(one, labels=(one.labels + 1) % 3, boxes=one.boxes + 40) for one in GOOD]
    with pytest.raises(CheckFailed, match="AP of PyTorch is 0"):
        ap_check(truth, wrong, wrong)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([empty()] * 4, "nothing was detected in 4 image"),
        (GOOD[:3], "3 image.s. were run, the data set has 4"),
        ([change(one, labels=one.labels + 1) for one in GOOD], "label 3 is none of the 3"),
        ([change(one, scores=one.scores * np.nan) for one in GOOD], "a score is not a number"),
    ],
)
def test_ap_that_means_nothing(truth, found, told):
    with pytest.raises(CheckFailed, match=f"the backend: .*{told}"):
        ap_check(truth, GOOD, found)
    with pytest.raises(CheckFailed, match=f"PyTorch: .*{told}"):
        ap_check(truth, found, GOOD)


def test_masks_that_are_missing(truth):
    with pytest.raises(CheckFailed, match="the backend: segm AP needs masks"):
        ap_check(truth, [with_masks(one) for one in GOOD], GOOD)


def test_annotations_without_objects(tmp_path):
    blank = Annotations(tmp_path, [empty()] * 4)
    with pytest.raises(AccuracyError, match="AP is undefined"):
        average_precision(blank, GOOD)


@pytest.mark.parametrize("metric", ["bbox", "segm"])
def test_ap_is_mmdets(metric):
    """On the shipped scenes: equal to ``CocoDataset.evaluate``, to the digits that it keeps."""
    pytest.importorskip("mmcv._ext")
    from pytest_onnxdet.data.datasets import SHAPES, builtin_datasets, load_dataset

    if not (SHAPES / "annotations.json").is_file():
        pytest.skip("the drawn scenes are not there")
    from mmcv import Config

    cfg = Config({"data": {"test": {"pipeline": []}}})
    data = load_dataset(builtin_datasets().get("shapes"), cfg, limit=8)
    rng = np.random.default_rng(0)
    found = [_from_truth(data.coco, i, rng) for i in range(8)]
    with warnings.catch_warnings(record=True):  # mmdet's own about areas of masks
        theirs = data.evaluate([one.to_mmdet(3) for one in found], [metric])
    ours = compare_ap(data, found, found, [metric])
    assert 0.05 < ours[f"{metric}_mAP"] < 0.95
    assert ours[f"{metric}_mAP"] == pytest.approx(theirs[f"{metric}_mAP"], abs=5.1e-5)


def _from_truth(coco, index, rng):
    """Detections near one image's objects: shaken boxes, boxy masks, random scores."""
    info, truth = coco.data_infos[index], coco.get_ann_info(index)
    boxes = truth["bboxes"] + rng.normal(0, 1.5, truth["bboxes"].shape)
    boxes = np.concatenate([boxes, boxes + 9]).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, len(boxes)).astype(np.float32))[::-1].copy()
    labels = np.concatenate([truth["labels"]] * 2).astype(np.int64)
    masks = np.zeros((len(boxes), info["height"], info["width"]), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.clip(0).astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return change(detections(0, 0), boxes=boxes, scores=scores, labels=labels, masks=masks)


def test_a_proven_tie_is_accepted_and_counted():
    """Deciding ties as the candidate did, the reference finds what the candidate finds."""
    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    near = nudge(other[3], "boxes", 2, np.float32([0.005, 0, 0.005, 0]))
    figures = check(other, settle=lambda index, found, singly: [GOOD[index], near])
    assert (figures["tied_images"], figures["tied_detections"]) == (1, 2)  # one missed, one extra
    assert figures["max_box_px"] == pytest.approx(0.005, abs=1e-4)  # what is left is told
    assert figures["missed"] == figures["extra"] == 0
    assert check(GOOD, settle=lambda index, found, singly: [])["tied_images"] == 0


@pytest.mark.parametrize("again", [[], [GOOD[3]]])
def test_a_difference_that_is_not_proven_a_tie_fails(again):
    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    error = failure(other, settle=lambda index, found, singly: again)
    assert "image 3" in error.message
    assert error.metrics["tied_images"] == 0


def test_a_batch_that_ties_otherwise_than_its_singles_needs_both_proven():
    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    runs = {False: GOOD, True: other}
    assert check(GOOD, singles=other, settle=lambda index, found, singly: [runs[singly][index]])
    error = failure(GOOD, singles=other, settle=lambda index, found, singly: [GOOD[index]])
    assert "one by one" in error.message


def test_ties_cannot_make_up_for_finding_nothing():
    nothing = [empty() for _ in GOOD]
    assert failure(nothing, settle=lambda index, found, singly: [empty()])


def test_more_proven_ties_than_the_spec_expects_fail():
    other = [*GOOD[:3], nudge(GOOD[3], "boxes", 2, np.float32([9, 0, 9, 0]))]
    runs = {"settle": lambda index, found, singly: [other[index]]}
    assert check(other, most_tied=0.25, **runs)["tied_images"] == 1
    assert check(other, most_tied=0.01, **runs)["tied_images"] == 1  # of four images, one
    error = failure(other, most_tied=0.0, **runs)
    assert "float ties explain 1 of 4 image(s), more than the 0% that" in error.message
    both = [nudge(GOOD[0], "boxes", 2, np.float32([9, 0, 9, 0])), *other[1:]]
    error = failure(both, most_tied=0.25, settle=lambda index, found, singly: [both[index]])
    assert "float ties explain 2 of 4 image(s), more than the 25% that" in error.message


def test_with_a_proof_at_hand_a_tie_at_the_cut_needs_it_too():
    last = len(GOOD[0]) - 1
    moved = nudge(GOOD[0], "boxes", last, np.float32([300, 0, 300, 0]))
    other = [moved, *GOOD[1:]]
    assert check(other, max_per_img=len(GOOD[0]))["order_only"] == 1
    failure(other, max_per_img=len(GOOD[0]), settle=lambda index, found, singly: [])
