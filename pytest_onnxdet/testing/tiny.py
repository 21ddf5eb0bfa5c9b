"""A detector of two layers that keeps the graph's contract, and what it finds by plain NumPy.

Cells of 4 x 4 pixels are looked at. The first layer takes a cell's mean over all channels and how
much redder than blue it is, the second makes two classes' logits of them; the :data:`SLOTS` best
cells above :data:`THRESHOLD` are detections, whose boxes are the cells, clipped to the image. It
needs neither torch nor mmdet, and only operators that every lowering of the project may use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_onnxdet.core.store import Artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    Arrays = dict[str, NDArray[Any]]

#: Pixels of a cell's side, detections of an image, the lowest score of one.
CELL, SLOTS, THRESHOLD = 4, 3, 0.1
#: A logit is so many times what the first layer finds, and so much less.
GAIN, OFFSET = 8.0, 4.0
OPSET = 17


def feeds(
    cells: Sequence[Mapping[tuple[int, int], tuple[str, float]]],
    size: tuple[int, int] = (32, 32),
    image_shape: tuple[int, int] | None = None,
) -> Arrays:
    """A batch of dark images with some cells that are not.

    Args:
        cells: for each image, by (row, column) of a cell: ``white`` or ``red``, and how bright, in
            0 to 1. From about 0.4 on a cell is a detection.
        size: (H, W) of the input in pixels, multiples of 4.
        image_shape: (h, w) before padding; None: all of ``size``.

    Returns:
        ``input`` float32 (N, 3, H, W) and ``image_shape`` int64 (N, 2).
    """
    images = np.zeros((len(cells), 3, *size), np.float32)
    for image, wanted in zip(images, cells, strict=True):
        for (row, column), (colour, bright) in wanted.items():
            y, x = row * CELL, column * CELL
            image[: 3 if colour == "white" else 1, y : y + CELL, x : x + CELL] = bright
    shapes = np.array([image_shape or size] * len(cells), np.int64).reshape(-1, 2)
    return {"input": images, "image_shape": shapes}


def expected(feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """What the detector finds in a batch: ``dets`` float32 (N, K, 5), ``labels`` int64 (N, K)."""
    images, shapes = feeds["input"].astype(np.float64), feeds["image_shape"]
    n, _, height, width = images.shape
    grid = images.reshape(n, 3, height // CELL, CELL, width // CELL, CELL).mean(axis=(3, 5))
    seen = np.stack([grid.mean(axis=1), grid[:, 0] - grid[:, 2]], axis=1)
    scores = 1 / (1 + np.exp(OFFSET - GAIN * np.maximum(seen, 0)))
    dets = np.zeros((n, SLOTS, 5), np.float32)
    labels = np.full((n, SLOTS), -1, np.int64)
    for i in range(n):
        best = scores[i].max(axis=0).ravel()
        for slot, at in enumerate(np.argsort(-best, kind="stable")[:SLOTS]):
            if best[at] < THRESHOLD:
                break
            row, column = np.unravel_index(at, grid.shape[2:])
            corners = np.array([column, row, column + 1, row + 1]) * CELL
            h, w = shapes[i]
            dets[i, slot] = [*np.minimum(corners, [w, h, w, h]), best[at]]
            labels[i, slot] = scores[i, :, row, column].argmax()
    return {"dets": dets, "labels": labels}


def model(shape: Sequence[int] | None = None) -> ModelProto:
    """The detector as an ONNX model, with the contract's inputs and outputs.

    Args:
        shape: (N, 3, H, W) of a static graph; None: a dynamic one.
    """
    from onnx import TensorProto, helper, numpy_helper

    seen = np.full((2, 3, CELL, CELL), 1 / (3 * CELL**2), np.float32)
    seen[1] = np.array([1, 0, -1], np.float32)[:, None, None] / CELL**2
    constants = {
        "w1": seen,
        "w2": (GAIN * np.eye(2, dtype=np.float32))[:, :, None, None],
        "b2": np.full(2, -OFFSET, np.float32),
        "flat": np.array([0, 2, -1], np.int64),
        "slots": np.array([SLOTS], np.int64),
        "threshold": np.float32(THRESHOLD),
        "minus_one": np.int64(-1),
        "zero": np.float32(0),
        "one": np.int64(1),
        "cell": np.int64(CELL),
        "third": np.int64(3),
        "last": np.array([-1], np.int64),
        "middle": np.array([1], np.int64),
        "width_height": np.array([1, 0, 1, 0], np.int64),
    }
    nodes: list[tuple[str, str, str, dict[str, Any]]] = [
        ("Conv", "input w1", "means", {"strides": [CELL, CELL]}),
        ("Relu", "means", "seen", {}),
        ("Conv", "seen w2 b2", "logits", {}),
        ("Reshape", "logits flat", "rows", {}),
        ("Sigmoid", "rows", "scores", {}),
        ("ReduceMax", "scores", "best", {"axes": [1], "keepdims": 0}),
        ("ArgMax", "scores", "classes", {"axis": 1, "keepdims": 0}),
        ("TopK", "best slots", "top at", {"axis": 1}),
        ("GatherElements", "classes at", "class", {"axis": 1}),
        # A cell's row and column from its place in the flattened grid.
        ("Shape", "logits", "grid", {}),
        ("Gather", "grid third", "columns", {}),
        ("Div", "at columns", "row", {}),
        ("Mul", "row columns", "before", {}),
        ("Sub", "at before", "column", {}),
        ("Add", "row one", "row_after", {}),
        ("Add", "column one", "column_after", {}),
        *[
            ("Unsqueeze", f"{name} last", f"{name}_", {})
            for name in ("column", "row", "column_after", "row_after")
        ],
        ("Concat", "column_ row_ column_after_ row_after_", "cells", {"axis": -1}),
        ("Mul", "cells cell", "corners", {}),
        # Clipped to (w, h, w, h) of each image.
        ("Gather", "image_shape width_height", "limits", {"axis": 1}),
        ("Unsqueeze", "limits middle", "limits_", {}),
        ("Cast", "corners", "corners_f", {"to": TensorProto.FLOAT}),
        ("Cast", "limits_", "limits_f", {"to": TensorProto.FLOAT}),
        ("Min", "corners_f limits_f", "boxes", {}),
        ("Unsqueeze", "top last", "top_", {}),
        ("Concat", "boxes top_", "all", {"axis": -1}),
        ("GreaterOrEqual", "top threshold", "taken", {}),
        ("Unsqueeze", "taken last", "taken_", {}),
        ("Where", "taken_ all zero", "dets", {}),
        ("Where", "taken class minus_one", "labels", {}),
    ]
    n, _, height, width = shape or ("batch", 3, "height", "width")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node(kind, a.split(), b.split(), name=b, **more)
            for kind, a, b, more in nodes
        ],
        "tiny_detector",
        [
            value("input", TensorProto.FLOAT, [n, 3, height, width]),
            value("image_shape", TensorProto.INT64, [n, 2]),
        ],
        [
            value("dets", TensorProto.FLOAT, [n, SLOTS, 5]),
            value("labels", TensorProto.INT64, [n, SLOTS]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


def artifact(folder: Path, shape: Sequence[int] | None = None) -> Artifact:
    """The detector's graph as the exporter would hand it to a backend.

    Args:
        folder: where it is written, in a store of its own.
        shape: (N, 3, H, W) of a static graph; None: a dynamic one, traced at 2 images of 32 x 32.
    """
    import onnx

    key = "static" if shape else "dynamic"
    path = folder / "graphs" / key / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model(shape), path)
    info = {
        "inputs": ["input", "image_shape"],
        "static_shape": list(shape) if shape else None,
        "traced_shape": list(shape or (2, 3, 32, 32)),
        "precision": "fp32",
    }
    return Artifact(path, key, False, info)
