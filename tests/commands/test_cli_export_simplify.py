"""``--simplify`` of graphs for TensorRT with free axes, which MMDetection's tool refuses."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from cli_models import SIZE, Ran, Tiny, axes

Run = Callable[..., Ran]


def export(onnxdet: Run, model: tuple[object, ...], file: Path, *words: object) -> Ran:
    return onnxdet(
        *("export", *model, "--output-file", file, "--shape", *SIZE, "--opset-version", 17),
        *("--simplify", "--dynamic-export", "--lowering", "tensorrt", "--verify", *words),
    )


def check(ran: Ran, file: Path, masks: bool = False) -> None:
    """What the command promises of a simplified dynamic graph for TensorRT."""
    assert ran.code == 0, ran.out + ran.err
    before = int(ran.out.split("Simplified: ")[1].split()[0])
    assert len(onnx.load(str(file)).graph.node) < before
    result = axes(file)
    assert result["input"] == ["batch", 3, "height", "width"]
    assert result["image_shape"] == ["batch", 2]
    names = ("dets", "labels", *(("masks",) if masks else ()))
    assert {result[name][0] for name in names} == {"batch"}
    assert ran.out.count("the same, ") == 3 and "batch 2 of different images: the same" in ran.out


def test_a_single_stage_model(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "s.onnx"
    check(export(onnxdet, tiny, file), file)
    kinds = {node.op_type for node in onnx.load(str(file)).graph.node}
    assert "NonMaxSuppression" not in kinds  # the lowering is TensorRT's


def test_mask_rcnn(onnxdet: Run, masked: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    check(export(onnxdet, masked, file), file, masks=True)


@pytest.mark.parametrize("model", ["yolov3", "detr"])
def test_other_families(onnxdet: Run, tmp_path: Path, model: str) -> None:
    file = tmp_path / "o.onnx"
    check(export(onnxdet, (f"mini:{model}",), file, "--shape", 128, 160), file)


def test_a_simplifier_that_fixes_an_axis_is_refused(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxslim

    honest = onnxslim.slim

    def slim(graph: onnx.ModelProto) -> onnx.ModelProto:
        made = honest(graph)
        made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        return made

    monkeypatch.setattr(onnxslim, "slim", slim)
    ran = export(onnxdet, tiny, tmp_path / "f.onnx")
    assert ran.code == 2 and "onnxslim changes the graph's inputs" in ran.err
    assert "leave --simplify out" in ran.err and "unforeseen" not in ran.err
    assert not list(tmp_path.iterdir())
