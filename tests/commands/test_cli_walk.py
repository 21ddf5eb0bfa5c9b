"""MMDetection's tutorial, step by step, with the two commands in place of its scripts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_models import Ran

Run = Callable[..., Ran]
MIN_AP = 0.4  # on few images; the minis reach 0.4 to 0.8 on all of them


@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn", "detr"])
def test_export_verify_and_test(onnxdet: Run, name: str, few: Path, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.onnx"
    opset = () if name != "mask_rcnn" else ("--opset-version", 16)
    ran = onnxdet(
        *("export", f"mini:{name}", "--output-file", file, "--shape", 128, 160),
        *("--dynamic-export", "--verify", *opset),
    )
    assert ran.code == 0, ran.out + ran.err
    assert ran.out.count("the same, ") == 3
    metrics = ("bbox", "segm") if name == "mask_rcnn" else ("bbox",)
    ran = onnxdet(
        *("test", f"mini:{name}", file, "--backend", "onnxruntime", "--eval", *metrics),
        *("--batch-size", 2, "--cfg-options", f"data.test.ann_file={few}"),
    )
    assert ran.code == 0, ran.err
    for metric in metrics:
        figure = ran.out.split(f"\n{metric}_mAP: ")[1].split()[0]
        assert float(figure) > MIN_AP
