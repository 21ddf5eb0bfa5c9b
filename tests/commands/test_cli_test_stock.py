"""``onnxdet test``: graphs as MMDetection's own tool writes them.

They take ``input`` alone; what was suppressed are rows of zeros, of score 0 and of any label; masks
are 0 and 1 in float32, at the input's size. These are made by hand, so that the answer is known.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_models import Ran, Tiny

from pytest_onnxdet.data.datasets import SHAPES

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")
HEIGHT, WIDTH = 128, 128
BOXES = np.float32([[8, 4, 40, 52, 0.9], [16, 8, 24, 16, 0.5]])
LABELS = np.int64([1, 0])
UNUSED = 3


def stock(unused_label: int, masks: bool, batch: int = 1) -> onnx.ModelProto:
    """A graph that finds the same two boxes in every image."""
    helper = onnx.helper
    rows = np.vstack([BOXES, np.zeros((UNUSED, 5), np.float32)])
    labels = np.concatenate([LABELS, np.full(UNUSED, unused_label)])
    arrays = {"dets": rows, "labels": labels}
    if masks:
        pasted = np.zeros((len(rows), HEIGHT, WIDTH), np.float32)
        for mask, (x1, y1, x2, y2) in zip(pasted, rows[:, :4].astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        arrays["masks"] = pasted
    constants = [
        onnx.numpy_helper.from_array(np.stack([value] * batch), f"found_{name}")
        for name, value in arrays.items()
    ]
    # The input is read, as a runtime may drop one that is not.
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["most"], keepdims=0),
        helper.make_node("Sub", ["most", "most"], ["nothing"]),
        helper.make_node("Add", ["found_dets", "nothing"], ["dets"]),
        helper.make_node("Identity", ["found_labels"], ["labels"]),
    ]
    if masks:
        nodes.append(helper.make_node("Identity", ["found_masks"], ["masks"]))
    kinds = {"labels": onnx.TensorProto.INT64}
    outputs = [
        helper.make_tensor_value_info(
            name, kinds.get(name, onnx.TensorProto.FLOAT), [batch, *value.shape]
        )
        for name, value in arrays.items()
    ]
    shape = [batch, 3, HEIGHT, WIDTH]
    graph = helper.make_graph(
        nodes, "stock", [helper.make_tensor_value_info("input", 1, shape)], outputs, constants
    )
    opsets = [helper.make_opsetid("", 11)]
    return helper.make_model(graph, ir_version=6, opset_imports=opsets)


def images(config: Path) -> list[dict[str, Any]]:
    """What the test pipeline says of each image."""
    from pytest_onnxdet.commands.common import open_config
    from pytest_onnxdet.commands.evaluate import open_data

    data = open_data(open_config(str(config), None))
    return [data.sample(index).meta for index in range(len(data))]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("unused_label", [0, -1, 3, 80])
def test_rows_of_zeros_are_no_detections(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, unused_label: int, batch: int
) -> None:
    onnx.save(stock(unused_label, masks=False, batch=batch), str(tmp_path / "stock.onnx"))
    ran = onnxdet("test", tiny.config, tmp_path / "stock.onnx", *ORT, "--out", tmp_path / "r.pkl")
    assert ran.code == 0, ran.err
    results = pickle.loads((tmp_path / "r.pkl").read_bytes())
    metas = images(tiny.config)
    assert len(results) == len(metas) == 6
    for meta, (circles, squares, triangles) in zip(metas, results, strict=True):
        assert (len(circles), len(squares), len(triangles)) == (1, 1, 0)
        np.testing.assert_allclose(squares[0, :4], BOXES[0, :4] / meta["scale_factor"], rtol=1e-6)
        np.testing.assert_allclose(circles[0, :4], BOXES[1, :4] / meta["scale_factor"], rtol=1e-6)
        assert squares[0, 4] == np.float32(0.9) and circles[0, 4] == np.float32(0.5)


@pytest.mark.parametrize("unused_label", [0, -1, 80])
def test_masks_of_the_inputs_size_are_brought_to_the_images(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, unused_label: int
) -> None:
    from pycocotools import mask as coco_mask

    onnx.save(stock(unused_label, masks=True), str(tmp_path / "stock.onnx"))
    words = ("--out", tmp_path / "r.pkl", "--eval", "bbox", "segm")
    ran = onnxdet("test", tiny.config, tmp_path / "stock.onnx", *ORT, *words)
    assert ran.code == 0, ran.err
    assert "segm_mAP: " in ran.out
    results = pickle.loads((tmp_path / "r.pkl").read_bytes())
    for meta, (boxes, masks) in zip(images(tiny.config), results, strict=True):
        assert [len(of_class) for of_class in masks] == [len(rows) for rows in boxes] == [1, 1, 0]
        (mask,) = masks[1]
        assert tuple(mask["size"]) == meta["ori_shape"][:2]
        x, y, width, height = coco_mask.toBbox(mask)
        corners = np.array([x, y, x + width, y + height])
        height, width = meta["ori_shape"][:2]
        wanted = BOXES[0, :4] / meta["scale_factor"]
        wanted = np.minimum(wanted, [width, height, width, height])
        np.testing.assert_allclose(corners, wanted, atol=1)  # whole pixels


def test_shipped_scenes_are_of_several_sizes() -> None:
    """Or scaling them would prove little."""
    import cv2

    shapes = {cv2.imread(str(SHAPES / "val" / f"{i:03d}.png")).shape for i in range(6)}
    assert len(shapes) > 1
