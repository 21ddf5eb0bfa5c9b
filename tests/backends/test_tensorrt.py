"""Building engines: on a stand-in all of it, on NVIDIA's own library what needs no GPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from fake_tensorrt import Fake, Network, graph
from onnx import TensorProto, helper

from pytest_onnxdet.backends import builtin_backends
from pytest_onnxdet.backends.base import BackendError, EngineError, expecting
from pytest_onnxdet.backends.registry import marker_name
from pytest_onnxdet.backends.tensorrt import backend as tensorrt
from pytest_onnxdet.backends.tensorrt import builder as engines
from pytest_onnxdet.backends.tensorrt.backend import TensorRTBackend
from pytest_onnxdet.backends.tensorrt.device import Gpu, find_gpu
from pytest_onnxdet.backends.tensorrt.library import Library
from pytest_onnxdet.backends.tensorrt.profile import Profile
from pytest_onnxdet.pytest_layer.outcome import stage_and_message
from pytest_onnxdet.run.cases import Settings, choose_backends

GPU = Gpu("Fake 1", (8, 6))
NONE = "no GPU: NVIDIA's driver is not installed"


def test_fp32_is_built_without_tf32_and_in_the_derived_profile(fake: Fake, tmp_path: Path) -> None:
    built = TensorRTBackend().build(graph(tmp_path))

    (engine,) = (tmp_path / "engines").glob("*/model.onnx")
    assert built["engine_bytes"] == engine.stat().st_size
    assert not built["cached"]
    assert built["target"] == "Fake 1 (sm_86)"
    assert fake.configs[0].cleared == [fake.BuilderFlag.TF32]
    assert fake.configs[0].target is None
    # Strongly typed: the builder takes the graph's types and chooses none itself.
    assert fake.networks == [1 << fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED]
    assert [profile.shapes for profile in fake.configs[0].profiles] == fake.profiles
    assert fake.profiles == [
        {
            "input": ((1, 3, 64, 64), (1, 3, 192, 160), (3, 3, 192, 160)),
            "image_shape": ((1, 2), (1, 2), (3, 2)),
        }
    ]


def test_a_static_graph_has_no_profile(fake: Fake, tmp_path: Path) -> None:
    TensorRTBackend().build(graph(tmp_path, {"static_shape": [1, 3, 32, 32]}))

    assert fake.profiles == []


def test_who_knows_the_largest_shape_has_it_built_for(fake: Fake, tmp_path: Path) -> None:
    # Full-size graphs are traced small: the trace says nothing about the images to come.
    TensorRTBackend().build(expecting(graph(tmp_path), 2, (800, 1344)))

    assert fake.profiles[0]["input"] == ((1, 3, 64, 64), (1, 3, 800, 1344), (2, 3, 800, 1344))
    static = graph(tmp_path, {"static_shape": [1, 3, 32, 32]})
    assert expecting(static, 2, (800, 1344)) is static


def test_fp16_is_set_where_the_library_offers_it_and_refused_elsewhere(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = graph(tmp_path, {"precision": "fp16"})
    TensorRTBackend().build(half)
    assert fake.configs[0].flags == [fake.BuilderFlag.FP16]
    assert fake.networks == [0]  # fp16 is for the builder to choose, in a weakly typed network
    assert TensorRTBackend().precisions == ("fp32", "fp16")

    monkeypatch.setattr(tensorrt, "find_library", lambda gpu: Library("tensorrt", "11.0"))
    assert TensorRTBackend().precisions == ("fp32",)
    with pytest.raises(BackendError, match=r"tensorrt 11\.0 computes in the types of the graph"):
        TensorRTBackend().build(half)


def test_engines_are_kept_by_graph_version_gpu_precision_and_profile(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = graph(tmp_path)
    assert not TensorRTBackend().build(artifact)["cached"]
    assert TensorRTBackend().build(artifact)["cached"]
    assert len(list((tmp_path / "engines").glob("*/artifact.json"))) == 1

    other = Profile((1, 64, 64), (1, 64, 64), (2, 64, 64))
    assert not TensorRTBackend(other).build(artifact)["cached"]
    assert not TensorRTBackend().build(graph(tmp_path, {"precision": "fp16"}))["cached"]
    monkeypatch.setattr(tensorrt, "gpu_here", lambda: Gpu("Fake 2", (9, 0)))
    assert not TensorRTBackend().build(artifact)["cached"]
    monkeypatch.setattr(tensorrt, "find_library", lambda gpu: Library("tensorrt", "10.4"))
    assert not TensorRTBackend().build(artifact)["cached"]
    artifact.path.write_bytes(b"another graph")
    assert not TensorRTBackend().build(artifact)["cached"]


def test_a_profile_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="min <= opt <= max"):
        Profile((2, 64, 64), (1, 64, 64), (2, 64, 64))


def test_a_profile_that_the_library_refuses_fails_the_build(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.added = -1
    with pytest.raises(EngineError, match=r"tensorrt 10\.3 refuses the optimization profile 1x64"):
        TensorRTBackend().build(graph(tmp_path))
    fake.added = 0
    crossed = {"input": ((2, 3, 64, 64), (1, 3, 64, 64), (3, 3, 64, 64))}
    monkeypatch.setattr(engines, "input_shapes", lambda name, profile: crossed[name])
    with pytest.raises(
        EngineError, match=r"refuses the shapes of 'input' .*Shape provided for min"
    ):
        TensorRTBackend().build(graph(tmp_path))


def test_a_profile_without_an_input_is_refused_by_the_stand_in(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "num_inputs", 1)
    with pytest.raises(EngineError, match="the profile has no shapes of image_shape"):
        TensorRTBackend().build(graph(tmp_path))


def test_a_refused_node_is_named_with_the_end_of_the_log(fake: Fake, tmp_path: Path) -> None:
    fake.refuses = [("/nms/NonZero", "NonZero", "not supported")]
    with pytest.raises(BackendError) as caught:
        TensorRTBackend().build(graph(tmp_path))
    assert "node /nms/NonZero (NonZero): not supported\n  ERROR: ModelImporter" in str(caught.value)


@pytest.mark.parametrize("fault", ["refuses", "builds", "inputs", "fp16"])
def test_what_is_not_built_is_blamed_on_the_build(fake: Fake, tmp_path: Path, fault: str) -> None:
    precision = "fp16" if fault == "fp16" else "fp32"
    if fault == "refuses":
        fake.refuses = [("n", "NonZero", "not supported")]
    elif fault == "builds":
        fake.builds = False
    elif fault == "inputs":
        fake.inputs = ("input", "colour")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BackendError) as caught:
        patch.setattr(tensorrt, "find_library", lambda gpu: Library("tensorrt", "11.0"))
        TensorRTBackend().build(graph(tmp_path, {"precision": precision}))
    stage, message = stage_and_message(caught.value) or ("", "")
    assert (stage, message) == ("build", str(caught.value))
    assert stage_and_message(BackendError("no GPU")) == ("runtime", "no GPU")


def test_a_build_that_fails_shows_the_log_and_leaves_nothing_behind(
    fake: Fake, tmp_path: Path
) -> None:
    fake.builds = False
    with pytest.raises(BackendError, match="K exceeds 3840") as caught:
        TensorRTBackend().build(graph(tmp_path))
    assert "chatter" not in str(caught.value)
    assert not [entry for entry in (tmp_path / "engines").iterdir() if entry.is_dir()]


def test_what_is_missing_and_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TensorRTBackend()
    monkeypatch.setattr(tensorrt, "gpu_here", lambda: NONE)
    monkeypatch.setattr(tensorrt, "find_library", lambda gpu: None)
    assert "pip install" in (backend.missing() or "")
    monkeypatch.setattr(tensorrt, "find_library", lambda gpu: Library("tensorrt", "10.3"))
    assert "only tensorrt_rtx builds" in (backend.missing() or "")
    monkeypatch.setattr(tensorrt, "find_library", lambda gpu: Library("tensorrt_rtx", "1.4"))
    assert backend.missing() is None
    assert backend.unrunnable() == NONE
    monkeypatch.setattr(tensorrt, "gpu_here", lambda: GPU)
    monkeypatch.setattr(tensorrt, "missing_binding", lambda: None)
    assert backend.unrunnable() is None


def test_without_a_gpu_a_session_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_onnxdet.backends.tensorrt.driver.NAMES", ())
    assert find_gpu() == NONE
    with pytest.raises(BackendError, match="no GPU"):
        TensorRTBackend().prepare(graph(tmp_path))


def test_the_lowering_on_onnxruntime_runs_for_those_who_name_it(tmp_path: Path) -> None:
    backends = builtin_backends()
    name = "onnxruntime[tensorrt-lowering]"

    chosen = choose_backends(Settings(tmp_path), backends)
    known = {*chosen.run, *chosen.absent}
    assert {"onnxruntime", "tensorrt"} <= known and name not in known
    chosen = choose_backends(Settings(tmp_path, backends=(name,)), backends)
    assert [backend.lowering for backend in chosen.run.values()] == ["tensorrt"]
    assert marker_name(name) == "onnxruntime_tensorrt_lowering"


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx-cu13")
def test_the_real_library_builds_two_layers_and_names_what_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "gpu_here", lambda: NONE)
    artifact = graph(tmp_path)
    two_layers(artifact.path, "Relu")
    built = TensorRTBackend().build(artifact)
    assert built["engine_bytes"] > 1000
    assert built["target"] == engines.AHEAD

    two_layers(artifact.path, "NonZero")
    with pytest.raises(BackendError, match=r"NonZero|does not build"):
        TensorRTBackend().build(artifact)


def two_layers(path: Path, last: str) -> None:
    """A sum over channels, and one more operator."""
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])
    kind = TensorProto.INT64 if last == "NonZero" else TensorProto.FLOAT
    shape = [4, "count"] if last == "NonZero" else ["n", 1, "h", "w"]
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["most"], axes=[1], name="first"),
        helper.make_node(last, ["most"], ["dets"], name="second"),
    ]
    body = helper.make_graph(
        nodes, "two", [image], [helper.make_tensor_value_info("dets", kind, shape)]
    )
    onnx.save(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
