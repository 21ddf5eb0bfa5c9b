"""The accuracy check: AP of both sides, unrounded, and when it means nothing."""

import json
import warnings

import numpy as np
import pytest
from verify_samples import CLASSES, TOLERANCE, change, detections, empty

from pytest_onnxdet.verify.accuracy import AccuracyError, average_precision, compare_ap
from pytest_onnxdet.verify.checks import CheckFailed, check_accuracy, kinds_of

GOOD = [detections(s) for s in range(4)]


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


def with_masks(one):
    masks = np.zeros((len(one), 64, 64), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, one.boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    return change(one, masks=masks)


def shaky(one, seed, by):
    rng = np.random.default_rng(seed)
    return change(one, boxes=one.boxes + rng.normal(0, by, one.boxes.shape).astype("f4"))


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
    results = [with_masks(one) for one in GOOD]
    figures = ap_check(truth, results, results)
    assert figures["segm_mAP_torch"] > 0.5
    assert figures["segm_mAP_delta"] == 0
    worse = [change(one, masks=np.roll(one.masks, 3, axis=2)) for one in results]
    with pytest.raises(CheckFailed, match="segm AP is"):
        ap_check(truth, results, worse)
    assert ap_check(truth, results, worse, metrics=["bbox"])["bbox_mAP_delta"] == 0


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
    ("results", "message"),
    [
        ([empty()] * 4, "nothing was detected in 4 image"),
        (GOOD[:3], "3 image.s. were run, the data set has 4"),
        ([change(one, labels=one.labels + 1) for one in GOOD], "label 3 is none of the 3"),
        ([change(one, scores=one.scores * np.nan) for one in GOOD], "a score is not a number"),
    ],
)
def test_ap_that_means_nothing(truth, results, message):
    with pytest.raises(CheckFailed, match=f"the backend: .*{message}"):
        ap_check(truth, GOOD, results)
    with pytest.raises(CheckFailed, match=f"PyTorch: .*{message}"):
        ap_check(truth, results, GOOD)


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
    results = [_from_truth(data.coco, i, rng) for i in range(8)]
    with warnings.catch_warnings(record=True):  # mmdet's own about areas of masks
        theirs = data.evaluate([one.to_mmdet(3) for one in results], [metric])
    ours = compare_ap(data, results, results, [metric])
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


def test_masks_alone_count_where_there_are_no_boxes(truth):
    """SOLO: every box is 0 on both sides, and so is their AP."""
    found = [change(with_masks(one), boxes=np.zeros_like(one.boxes)) for one in GOOD]
    figures = ap_check(truth, found, found)
    assert set(figures) == {"segm_mAP_torch", "segm_mAP", "segm_mAP_delta"}
    assert figures["segm_mAP_torch"] > 0.5
    with pytest.raises(CheckFailed, match="segm AP is"):
        worse = [change(one, masks=np.roll(one.masks, 9, axis=2)) for one in found]
        ap_check(truth, found, worse)


def test_kinds_of_ap_are_those_of_detections_and_annotations():
    masked = [with_masks(one) for one in GOOD]
    alone = [change(one, boxes=np.zeros_like(one.boxes)) for one in masked]
    assert kinds_of(GOOD) == kinds_of(masked, ("bbox",)) == ("bbox",)
    assert kinds_of(masked) == ("bbox", "segm")
    assert kinds_of(alone) == ("segm",) and kinds_of(alone, ("bbox",)) == ()
