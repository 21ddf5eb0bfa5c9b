"""``onnxdet test`` on data in Pascal VOC's layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_models import Ran, Tiny
from draw_voc import draw

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")
IMAGES = 8
MIN_MAP, MIN_RECALL = 0.85, 0.95  # the mini RetinaNet reaches 0.952 and 1 on these images


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The options that choose drawn VOC data."""
    root = draw(tmp_path_factory.mktemp("voc"), IMAGES)
    return (
        "--cfg-options",
        "data.test.type=VOCDataset",
        f"data.test.ann_file={root / 'ImageSets/Main/test.txt'}",
        f"data.test.img_prefix={root}/",
    )


def figures(ran: Ran) -> dict[str, str]:
    return dict(line.split(": ") for line in ran.out.splitlines() if line.count(": ") == 1)


def test_a_trained_detector_reaches_its_ap(
    onnxdet: Run, voc: tuple[str, ...], tmp_path: Path
) -> None:
    graph = tmp_path / "retinanet.onnx"
    ran = onnxdet(
        *("export", "mini:retinanet", "--output-file", graph, "--dynamic-export"),
        *("--shape", 128, 160),
    )
    assert ran.code == 0, ran.err
    ran = onnxdet("test", "mini:retinanet", graph, *ORT, "--eval", "mAP", "recall", *voc)
    assert ran.code == 0, ran.err
    result = figures(ran)
    assert MIN_MAP < float(result["mAP"]) <= 1
    assert MIN_RECALL < float(result["recall@100@0.5"]) <= 1


def test_options_paths_and_refusals(
    onnxdet: Run, tiny: Tiny, dynamic: Path, voc: tuple[str, ...], tmp_path: Path
) -> None:
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--eval", "mAP", "recall", *voc),
        *("--eval-options", "iou_thr=0.1", "--show-dir", tmp_path / "show"),
    )
    assert ran.code == 0, ran.err
    assert {"mAP", "AP10", "recall@100@0.1", "recall@1000@0.1"} <= set(figures(ran))
    assert (tmp_path / "show" / "JPEGImages" / "000.jpg").is_file()
    for words, message in (
        (("--eval", "bbox"), "VOCDataset has the metrics mAP, recall"),
        (("--format-only",), "has no result format"),
        (("--eval", "mAP", "--eval-options", "classwise=1"), "no classwise; there are"),
    ):
        ran = onnxdet("test", tiny.config, dynamic, *ORT, *words, *voc)
        assert ran.code == 2 and message in ran.err


@pytest.mark.parametrize("moved", [0, 30])
def test_the_truth_is_perfect(tiny: Tiny, voc: tuple[str, ...], moved: int) -> None:
    from pytest_onnxdet.commands.common import open_config
    from pytest_onnxdet.commands.evaluate import evaluate, open_data
    from pytest_onnxdet.data.detections import Detections

    options: dict[str, Any] = dict(word.split("=") for word in voc[1:])
    data = open_data(open_config(str(tiny.config), options))
    truth = [data.coco.get_ann_info(index) for index in range(len(data))]
    detections = [
        Detections(one["bboxes"] + moved, np.ones(len(one["bboxes"]), np.float32), one["labels"])
        for one in truth
    ]
    result = evaluate(data, detections, ["mAP", "recall"], {})
    if moved:
        assert result["mAP"] < 0.2 and result["recall@100@0.5"] < 0.2
    else:
        assert result["mAP"] == 1.0 and result["recall@100@0.5"] == 1.0


def test_recall_pairs_each_object_with_one_box() -> None:
    from pytest_onnxdet.commands.recall import recalls

    objects = [np.array([[0, 0, 9, 9], [20, 20, 29, 29]], np.float32), np.zeros((0, 4), np.float32)]
    twice = np.array([[0, 0, 9, 9, 0.9], [0, 0, 9, 8, 0.8]], np.float32)
    far = np.array([[20, 20, 29, 24, 0.7]], np.float32)
    results = [[twice, far], [far, far]]
    assert recalls(objects, results, (2, 3), 0.5) == {"recall@2@0.5": 0.5, "recall@3@0.5": 1.0}
    several = recalls(objects, results, (3,), [0.5, 0.9])
    assert several["AR@3"] == 0.75
    assert recalls(objects[1:], results[1:]) == {f"recall@{n}@0.5": 0.0 for n in (100, 300, 1000)}
