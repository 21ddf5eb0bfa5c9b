"""A detector of forty operators that keeps the graph's contract, and what runs it.

Each of the first 24 pixels of the top row is one candidate: a 1x1 convolution turns its colour into
centre, size and a score per class. From there it does what a real one does: clip to
``image_shape``, suppress, sort by score, leave empty slots at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime

from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.detections import Detections

SLOTS = 24
HEIGHT, WIDTH = 64, 96

_HEAD = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "hand">
detector (float[N, 3, H, W] input, int64[N, 2] image_shape)
    => (float[N, K, 5] dets, int64[N, K] labels{masks})
<int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[1] i2 = {{2}}, int64[1] i3 = {{3}},
 int64[1] i4 = {{4}}, int64[1] i7 = {{7}}, int64[1] slots = {{24}}, int64[1] minus = {{-1}},
 int64[3] four_wide = {{1, 1, 4}}, int64[3] seven_wide = {{1, 1, 7}}, int64[2] flip = {{1, 0}},
 float[1] overlap = {{0.3}}, float[1] least = {{0.6}}, float zero = {{0.0}},
 float[2] reach = {{110.0, 70.0}}, float[1] girth = {{30.0}}, int64[2] row = {{-1, 1}}>
{{
  mapped = Conv <kernel_shape = [1, 1]> (input, weight, bias)
  top = Slice (mapped, i0, i1, i2)
  columns = Squeeze (top, i2)
  every = Transpose <perm = [0, 2, 1]> (columns)
  linear = Slice (every, i0, slots, i1)
  found = Sigmoid (linear)

  share = Slice (found, i0, i2, i2)
  centre = Mul (share, reach)
  size = Slice (found, i2, i4, i2)
  half = Mul (size, girth)
  low = Sub (centre, half)
  high = Add (centre, half)
  box = Concat <axis = 2> (low, high)
  height_width = Cast <to = 1> (image_shape)
  width_height = Gather <axis = 1> (height_width, flip)
  twice = Concat <axis = 1> (width_height, width_height)
  limit = Unsqueeze (twice, i1)
  above = Max (box, zero)
  inside = Min (above, limit)

  wide = Slice (found, i4, i7, i2)
  score = Transpose <perm = [0, 2, 1]> (wide)
  kept = NonMaxSuppression (inside, score, slots, overlap, least)
  kept_score = GatherND (score, kept)
  blank = Mul (score, zero)
  sparse = ScatterND (blank, kept, kept_score)
  shape = Shape (sparse)
  batch = Slice (shape, i0, i1)
  flat_shape = Concat <axis = 0> (batch, minus)
  flat = Reshape (sparse, flat_shape)
  best, place = TopK <axis = 1, largest = 1, sorted = 1> (flat, slots)
  kind = Div (place, slots)
  which = Mod (place, slots)
  which_1 = Unsqueeze (which, i2)
  which_4 = Expand (which_1, four_wide)
  chosen = GatherElements <axis = 1> (inside, which_4)
  best_1 = Unsqueeze (best, i2)
  filled = Concat <axis = 2> (chosen, best_1)
  used = Greater (best, zero)
  used_1 = Unsqueeze (used, i2)
  dets = Where (used_1, filled, zero)
  labels = Where (used, kind, minus)
{tail}
}}
"""
_MASKS = """
  which_7 = Expand (which_1, seven_wide)
  code = GatherElements <axis = 1> (linear, which_7)
  tall = Unsqueeze (code, i3)
  broad = Unsqueeze (code, i2)
  product = Mul (tall, broad)
  masks = Sigmoid (product)
"""


def detector(masks: bool = False) -> onnx.ModelProto:
    """The graph, every axis of the contract free."""
    text = _HEAD.format(
        masks=", float[N, K, 7, 7] masks" if masks else "", tail=_MASKS if masks else ""
    )
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, value in (
        ("weight", rng.normal(0, 1.5, (7, 3, 1, 1))),
        ("bias", np.zeros(7)),
    ):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    return model


def fixed(model: onnx.ModelProto, batch: int = 2) -> onnx.ModelProto:
    """The same with N, H and W baked."""
    sizes = {"N": batch, "H": HEIGHT, "W": WIDTH}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    return model


def save(model: onnx.ModelProto, path: Path, **info: object) -> Artifact:
    """Writes a graph as the store's artifact would be."""
    onnx.save(model, path)
    outputs = [value.name for value in model.graph.output]
    known = {"seconds": 0.1, "opset": 17, "inputs": ("input", "image_shape"), "outputs": outputs}
    return Artifact(path, "key", cached=False, info={**known, "shape": "dynamic", **info})


def feeds(seed: int = 0, batch: int = 2) -> dict[str, np.ndarray]:
    """Images of noise, of different sizes, zero-padded to one."""
    rng = np.random.default_rng(seed)
    shapes = np.array([(HEIGHT - 9 * i - 5, WIDTH - 7 * i - 3) for i in range(batch)], np.int64)
    images = rng.normal(0, 1, (batch, 3, HEIGHT, WIDTH)).astype(np.float32)
    for image, (height, width) in zip(images, shapes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return {"input": images, "image_shape": shapes}


def run(model: onnx.ModelProto, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Runs a graph, quietly."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    used = {value.name: values[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, used), strict=True))


def to_detections(outputs: Mapping[str, np.ndarray]) -> list[Detections]:
    """As the session wrapper does, at the network's scale and without pasting."""
    results = []
    for i, labels in enumerate(outputs["labels"]):
        used = np.flatnonzero(labels >= 0)
        dets = outputs["dets"][i][used]
        probs = outputs["masks"][i][used] if "masks" in outputs else None
        results.append(Detections(dets[:, :4], dets[:, 4], labels[used], None, probs))
    return results
