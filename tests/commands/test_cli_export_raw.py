"""``--skip-postprocess``: the heads' outputs, by name and level, of single-stage models."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from cli_models import SIZE, Ran, axes

Run = Callable[..., Ran]


def levels(*names: str, count: int) -> list[str]:
    return [f"{name}_{level}" for name in names for level in range(count)]


FAMILIES = {
    "retinanet": levels("cls_score", "bbox_pred", count=5),
    "fcos": levels("cls_score", "bbox_pred", "centerness", count=5),
    "yolov3": levels("pred_map", count=3),
    "cornernet": ["tl_heat", "br_heat", "tl_emb", "br_emb", "tl_off", "br_off"],
    "detr": ["cls_score", "bbox_pred"],
}


@pytest.mark.parametrize("form", ["static", "dynamic"])
@pytest.mark.parametrize("model", FAMILIES)
def test_raw_outputs_are_named_and_verified(
    onnxdet: Run, tmp_path: Path, model: str, form: str
) -> None:
    file = tmp_path / "raw.onnx"
    shape = ("127", "127") if model == "cornernet" else SIZE
    words = ("--dynamic-export",) if form == "dynamic" else ("--batch", 2)
    ran = onnxdet(
        *("export", f"mini:{model}", "--output-file", file, "--shape", *shape),
        *("--skip-postprocess", "--verify", *words),
    )
    assert ran.code == 0, ran.out + ran.err
    assert "(raw outputs, " in ran.out
    assert ran.out.count("raw outputs the same") == (3 if form == "dynamic" else 1)
    assert "batch 2 of different images: raw outputs the same" in ran.out
    assert [value.name for value in onnx.load(str(file)).graph.output] == FAMILIES[model]
    result = axes(file)
    fixed = [2, 3, *map(int, shape)]
    assert result["input"] == (fixed if form == "static" else ["batch", 3, "height", "width"])
    wanted = "batch" if form == "dynamic" else 2
    assert {result[name][0] for name in FAMILIES[model]} == {wanted}


@pytest.mark.parametrize("model", ["faster_rcnn", "point_rend"])
def test_two_stage_models_are_refused_with_the_reason(
    onnxdet: Run, tmp_path: Path, model: str
) -> None:
    common = ("export", f"mini:{model}", "--output-file", tmp_path / "x.onnx")
    ran = onnxdet(*common, "--skip-postprocess")
    assert ran.code == 2 and "is a two-stage model: its second stage runs on" in ran.err
    assert not list(tmp_path.iterdir())
