"""`onnxdet export` and `onnxdet test` of a proposal network, whose boxes have no class."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_models import SIZE, Ran, data_of
from tiny_retinanet import CLASSES, PIPELINE

from pytest_onnxdet.data.datasets import SHAPES

MODEL = """
model = dict(
    backbone=dict(depth=18, base_channels=4),
    neck=dict(in_channels=[4, 8, 16, 32], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8, anchor_generator=dict(scales=[5])),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=60)))
"""


@pytest.fixture
def rpn(tmp_path: Path, few: Path) -> tuple[Path, Path]:
    """The config and the checkpoint of a tiny one with random weights."""
    from pytest_onnxdet.commands.common import open_config
    from pytest_onnxdet.models.build import config_root, initialise, make_detector

    base = f"_base_ = [{str(config_root() / 'rpn/rpn_r50_fpn_1x_coco.py')!r}]\n"
    config = tmp_path / "rpn.py"
    config.write_text(base + MODEL + PIPELINE + data_of(few, SHAPES / "val"))
    made = open_config(str(config), None)
    detector = make_detector(made.cfg, made.path)
    torch.manual_seed(0)
    initialise(detector)
    torch.nn.init.normal_(detector.rpn_head.rpn_cls.weight, std=1.0)
    saved = {"state_dict": detector.state_dict(), "meta": {"CLASSES": CLASSES}}
    torch.save(saved, tmp_path / "rpn.pth")
    return config, tmp_path / "rpn.pth"


def wanted(file: Path, results: list[Any], numbers: tuple[int, ...]) -> list[float]:
    """mmdet's own counting, of an array that numpy still takes."""
    from mmdet.core.evaluation import recall

    truth = json.loads(file.read_text())
    overlaps = np.empty(len(results), dtype=object)
    for at, image in enumerate(truth["images"]):
        boxes = [n["bbox"] for n in truth["annotations"] if n["image_id"] == image["id"]]
        corners = np.array(boxes, np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        overlaps[at] = recall.bbox_overlaps(corners, results[at][:, :4])
    counts, thresholds = np.array(numbers), np.linspace(0.5, 0.95, 10)
    return list(recall._recalls(overlaps, counts, thresholds).mean(axis=1))


@pytest.mark.filterwarnings("ignore")
def test_proposals_are_exported_verified_and_evaluated(
    onnxdet: Callable[..., Ran], rpn: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    config, weights = rpn
    graph, out = tmp_path / "rpn.onnx", tmp_path / "found.pkl"
    words = ("--shape", *SIZE, "--dynamic-export", "--verify", "--opset-version", 17)
    ran = onnxdet("export", config, weights, "--output-file", graph, *words)
    assert ran.code == 0, ran.err
    tested = ("test", config, graph, "--backend", "onnxruntime")
    ran = onnxdet(*tested, "--out", out, "--eval", "proposal", "proposal_fast")
    assert ran.code == 0, ran.err
    assert "AR@100" in ran.out and "AR_m@1000" in ran.out
    results = pickle.loads(out.read_bytes())
    assert all(one.shape[1] == 5 and 10 < len(one) <= 60 for one in results)
    figures = dict(line.split(": ", 1) for line in ran.out.splitlines() if line.startswith("AR@"))
    ran = onnxdet(*tested, "--eval", "proposal_fast", "--eval-options", "proposal_nums=[3,30,60]")
    figures = dict(line.split(": ", 1) for line in ran.out.splitlines() if line.startswith("AR@"))
    expected = wanted(few, results, (3, 30, 60))
    assert [float(v) for v in figures.values()] == pytest.approx(expected) and expected[2] > 0


def test_what_has_classes_is_refused(
    onnxdet: Callable[..., Ran], rpn: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "any.onnx").write_bytes(b"")
    words = ("test", rpn[0], tmp_path / "any.onnx", "--backend", "onnxruntime", "--eval", "bbox")
    ran = onnxdet(*words)
    assert ran.code == 2 and "use proposal or proposal_fast" in ran.err
