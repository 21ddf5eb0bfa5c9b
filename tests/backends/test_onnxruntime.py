"""ONNX Runtime: bound runs, the device it chooses, and what its threads do when they are idle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pytest_onnxdet.backends import onnxruntime as backend
from pytest_onnxdet.backends.base import BackendError, Session
from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.backends.tensorrt.device import Gpu
from pytest_onnxdet.core.store import Artifact


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """The sum of each image's pixels, and the indices of those that are not zero: any number."""
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])
    nodes = [
        helper.make_node("ReduceSum", ["input", "axes"], ["dets"], keepdims=0),
        helper.make_node("NonZero", ["input"], ["labels"]),
    ]
    outputs = [
        helper.make_tensor_value_info("dets", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [4, "found"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    graph = helper.make_graph(nodes, "sum", [image], outputs, [axes])
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return Artifact(path, "key", False, {"inputs": ["input"]})


@pytest.fixture
def session(artifact: Artifact) -> Iterator[Session]:
    with OnnxRuntimeBackend("cpu").prepare(artifact, threads=1) as made:
        yield made


def feeds(n: int, side: int = 8) -> dict[str, Any]:
    images = np.zeros((n, 3, side, side), np.float32)
    images[:, 0, :n, 0] = np.arange(1, n + 1)
    return {"input": images, "image_shape": np.full((n, 2), side)}


def test_bound_runs_give_what_plain_runs_give(session: Session) -> None:
    # Several at a time, of different sizes, and again: each has outputs of its own.
    bound = [(session.bind(feeds(n)), session.run_arrays(feeds(n))) for n in (1, 3, 2)]
    for _ in range(2):
        for one, wanted in bound:
            assert one.run() is None  # the caller's clock
            outputs = one.fetch()
            assert list(outputs) == ["dets", "labels"]
            for name, value in wanted.items():
                np.testing.assert_array_equal(outputs[name], value)
        assert not one.excludes_copies  # on a CPU there is nothing to copy


def test_inputs_live_as_long_as_what_is_bound(session: Session) -> None:
    bound = session.bind(feeds(3))
    rubbish = [np.full((3, 3, 8, 8), 9, np.float32) for _ in range(20)]
    bound.run()
    np.testing.assert_array_equal(bound.fetch()["dets"], [6, 6, 6])
    del rubbish


def test_the_first_bound_run_sizes_the_outputs(session: Session) -> None:
    inputs = feeds(3)
    bound = session.bind(inputs)
    bound.run()
    places = [value.data_ptr() for value in bound._binding.get_outputs()]  # type: ignore[attr-defined]
    bound.run()
    assert [v.data_ptr() for v in bound._binding.get_outputs()] == places  # type: ignore[attr-defined]
    # Nobody changes what is bound; if somebody did, the run would fail rather than be cut off.
    inputs["input"][:] = 0
    with pytest.raises(BackendError, match="computed output shape"):
        bound.run()


def test_nothing_is_fetched_before_a_run(session: Session) -> None:
    bound = session.bind(feeds(1))
    with pytest.raises(BackendError, match=r"model\.onnx: nothing ran, nothing to fetch"):
        bound.fetch()


def test_bound_inputs_are_checked_like_plain_ones(artifact: Artifact) -> None:
    fixed = Artifact(artifact.path, "key", False, {**artifact.info, "static_shape": [1, 3, 8, 8]})
    with OnnxRuntimeBackend("cpu").prepare(fixed) as session:
        with pytest.raises(BackendError, match="static shape"):
            session.bind(feeds(2))
        with pytest.raises(BackendError, match="needs the inputs input"):
            session.bind({})
        bound = session.bind(feeds(1))
    with pytest.raises(BackendError, match="closed"):
        bound.run()


def test_a_failing_bound_run_is_a_backend_error(session: Session) -> None:
    with pytest.raises(BackendError, match=r"ONNX Runtime failed in model\.onnx"):
        session.bind({"input": np.zeros((1, 3, 8, 8), np.float64)}).run()


@pytest.mark.parametrize(
    ("providers", "gpu", "device"),
    [
        (["CUDAExecutionProvider", "CPUExecutionProvider"], Gpu("Fake", (8, 6)), "cuda"),
        # What was compiled in says nothing about the machine.
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "no GPU: no driver", "cpu"),
        (["CPUExecutionProvider"], Gpu("Fake", (8, 6)), "cpu"),
    ],
)
def test_cuda_is_chosen_where_it_is_compiled_in_and_there_is_a_gpu(
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    providers: list[str],
    gpu: Gpu | str,
    device: str,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(backend, "gpu_here", lambda: gpu)
    monkeypatch.setattr(backend, "OnnxRuntimeSession", lambda a, where, n: asked.append(where))
    OnnxRuntimeBackend().prepare(artifact)
    assert asked == [device]


def test_cuda_that_was_asked_for_is_never_replaced(artifact: Artifact) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has the provider")
    with pytest.raises(BackendError, match=r"CUDAExecutionProvider"):
        OnnxRuntimeBackend("cuda").prepare(artifact)
