"""Images that are too small for what a config takes the best of, and PyTorch's own failures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_models import SIZE, Ran, Tiny
from torch import nn

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.reference.detector import PyTorchFails, Reference

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")
CORNERS = "model.test_cfg.corner_topk=4000"


def test_more_corners_than_a_small_image_has(onnxdet: Run, tmp_path: Path, few: Path) -> None:
    graph = tmp_path / "c.onnx"
    words = ("export", "mini:cornernet", "--output-file", graph)
    ran = onnxdet(*words, "--shape", 127, "--cfg-options", CORNERS)
    assert ran.code == 2 and "it is too small: give --shape (a spec's static_shape) 160" in ran.err
    assert len(ran.err.splitlines()) == 1
    ran = onnxdet(*words, "--shape", 255, "--dynamic-export", "--cfg-options", CORNERS)
    assert ran.code == 0, ran.err
    options = ("--cfg-options", CORNERS, f"data.test.ann_file={few}")
    ran = onnxdet("test", "mini:cornernet", graph, *ORT, "--eval", "bbox", *options)
    said = "an input is too small: the graph takes the best 4000 of "
    assert ran.code == 2 and said in ran.err and "times as long, or export with" in ran.err
    assert "onnxruntime:, sequential_executor" not in ran.err


def test_a_detector_that_fails_in_pytorch_is_named() -> None:
    class Broken(nn.Module):
        bbox_head = None

        def forward(self, **_: Any) -> Any:
            assert self.training

    size = np.int64([[8, 8]])
    batch = Batch(np.zeros((1, 3, 8, 8), np.float32), size, [{}])
    said = r"^Broken: mmdet itself fails in PyTorch on a batch of 1 x 3 x 8 x 8 \(AssertionError"
    with pytest.raises(PyTorchFails, match=said) as caught:
        Reference(Broken().eval()).run(batch)
    assert "assert self.training" in str(caught.value)


@pytest.mark.parametrize("value", ["nan", "inf", "-5", "1.5"])
def test_a_score_is_from_0_to_1(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, runs: list[int], value: str
) -> None:
    words = ("--show-dir", tmp_path / "shown", f"--show-score-thr={value}")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 2 and f"--show-score-thr: {value}: give a score from 0 to 1" in ran.err
    assert len(ran.err.splitlines()) == 1 and not runs and not (tmp_path / "shown").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("coverage", "--timeout", "nan"), "--timeout nan: give a number of seconds above 0"),
        (("coverage", "--timeout", "inf"), "--timeout inf: give a number of seconds above 0"),
        (("cache", "--prune", "--max-size", "9" * 400 + "GB"), "give a size as 2GB"),
        (("cache", "--prune", "--older-than", "9" * 400 + "d"), "give an age as 30d"),
        (("export", "--opset-version", "-3"), "opset -3 is not supported: 11 to "),
        (("export", "--batch", "0"), "--batch: 0: give 1 or more"),
        (("export", "--shape", "-1"), "--shape: give pixels, 1 or more"),
    ],
)
def test_numbers_that_options_do_not_take(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    more = {
        "export": (*tiny, "--output-file", tmp_path / "g.onnx"),
        "cache": ("--cache", tmp_path),
    }.get(words[0], (tiny.config,))
    size = ("--shape", *SIZE) if words[0] == "export" and "--shape" not in words else ()
    ran = onnxdet(words[0], *more, *size, *words[1:])
    assert ran.code == 2 and said in ran.err, ran.err
    assert len(ran.err.splitlines()) == 1 and not (tmp_path / "g.onnx").exists()
