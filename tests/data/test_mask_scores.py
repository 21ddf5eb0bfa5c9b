"""Masks that rank by scores of their own (Mask Scoring R-CNN), from a graph to mmdet's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from recording_samples import recording

from pytest_onnxdet.bundle.format import read, write
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.compare import compare_detections
from pytest_onnxdet.verify.contract import contract_faults
from pytest_onnxdet.verify.values import value_faults

META = {
    "filename": str(Path("a.png")),
    "img_shape": (60, 80, 3),
    "ori_shape": (60, 80, 3),
    "scale_factor": np.ones(4, np.float32),
}
BATCH = Batch(np.zeros((1, 3, 64, 96), np.float32), np.array([[60, 80]]), [META])


def outputs(**more: Any) -> dict[str, Any]:
    row = [[0, 0, 80, 60, 0.9], [10, 5, 30, 25, 0.4], [0] * 5]
    return {
        "dets": np.array([row], np.float32),
        "labels": np.array([[2, 0, -1]]),
        "masks": np.full((1, 3, 2, 2), 0.7, np.float32),
        "mask_scores": np.array([[0.3, 0.35, 0.0]], np.float32),
        **more,
    }


def test_a_result_of_mmdets_is_read_and_written() -> None:
    (made,) = from_outputs(outputs(), BATCH)
    assert made.mask_scores is not None and made.mask_scores.tolist() == pytest.approx([0.3, 0.35])
    boxes, (masks, scores) = made.to_mmdet(3)
    assert [len(of_class) for of_class in masks] == [len(of_class) for of_class in scores]
    assert [of_class.tolist() for of_class in scores] == [
        pytest.approx([0.35]),
        [],
        pytest.approx([0.3]),
    ]
    again = Detections.from_mmdet((boxes, (masks, scores)), made.mask_probs)
    assert not compare_detections([made], [again], Tolerance()).faults
    np.testing.assert_array_equal(again.mask_scores, made.mask_scores)


def test_a_recording_keeps_them(tmp_path: Path) -> None:
    made = from_outputs(outputs(), BATCH)
    write(tmp_path / "made.npz", recording(*made))
    (again,) = read(tmp_path / "made.npz").detections
    np.testing.assert_array_equal(again.mask_scores, made[0].mask_scores)


@pytest.mark.parametrize("theirs", [np.array([[0.3, 0.36, 0.0]], np.float32), None])
def test_another_score_is_a_difference(theirs: Any) -> None:
    """Also none at all."""
    other = outputs(mask_scores=theirs)
    if theirs is None:
        del other["mask_scores"]
    result = compare_detections(
        from_outputs(outputs(), BATCH), from_outputs(other, BATCH), Tolerance()
    )
    assert not result.ok and "of the mask" in result.format()


def test_the_contract_has_them() -> None:
    assert value_faults(outputs(), BATCH) == []
    (fault,) = value_faults(outputs(mask_scores=np.array([[0.3, np.nan, 0.0]])), BATCH)
    assert "slot 1: a mask score of nan" in fault
    (fault,) = value_faults(outputs(mask_scores=np.array([[0.3, 0.2, 0.1]])), BATCH)
    assert "slot 2: a mask score of 0.1: label -1" in fault
    (fault,) = value_faults(outputs(mask_scores=np.zeros((1, 2))), BATCH)
    assert "mask_scores (1, 2)" in fault


def test_a_graph_declares_them() -> None:
    values = {
        "dets": ["N", "K", 5],
        "labels": ["N", "K"],
        "masks": ["N", "K", 28, 28],
        "mask_scores": ["N", "K"],
    }
    given = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name == "labels" else TensorProto.FLOAT, shape
        )
        for name, shape in values.items()
    ]
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, "H", "W"]),
        helper.make_tensor_value_info("image_shape", TensorProto.INT64, ["N", 2]),
    ]
    graph: onnx.ModelProto = helper.make_model(helper.make_graph([], "g", inputs, given))
    assert contract_faults(graph, {}) == []
