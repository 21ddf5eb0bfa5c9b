"""The tiny detector is a valid graph that finds what NumPy says, in both shape modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from pytest_onnxdet.testing import tiny

SCENE = [
    {(0, 0): ("white", 1.0), (2, 5): ("red", 0.75), (7, 7): ("white", 0.5), (3, 3): ("red", 0.4)},
    {(1, 6): ("red", 0.9)},
]


@pytest.mark.parametrize("shape", [None, (2, 3, 32, 32)])
def test_the_graph_finds_what_numpy_says(tmp_path: Path, shape: tuple[int, ...] | None) -> None:
    artifact = tiny.artifact(tmp_path, shape)
    onnx.checker.check_model(artifact.path, full_check=True)
    assert {node.domain for node in onnx.load(artifact.path).graph.node} == {""}
    feeds = tiny.feeds(SCENE, image_shape=(30, 24))
    outputs = onnxruntime.InferenceSession(artifact.path).run(["dets", "labels"], feeds)
    wanted = tiny.expected(feeds)
    np.testing.assert_allclose(outputs[0], wanted["dets"], atol=1e-6)
    np.testing.assert_array_equal(outputs[1], wanted["labels"])
    assert artifact.static_shape == shape


def test_what_it_finds() -> None:
    outputs = tiny.expected(tiny.feeds(SCENE, image_shape=(30, 24)))
    np.testing.assert_array_equal(outputs["labels"], [[0, 1, 0], [1, -1, -1]])
    np.testing.assert_array_equal(outputs["dets"][0, :, :4], [[0, 0, 4, 4], [20, 8, 24, 12],
                                                           [24, 28, 24, 30]])  # fmt: skip
    np.testing.assert_allclose(outputs["dets"][1, 0], [24, 4, 24, 8, 1 / (1 + np.exp(-3.2))])
    assert not outputs["dets"][1, 1:].any()
