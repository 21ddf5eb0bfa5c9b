"""``mask_thr_binary``: the config's, on both sides, whatever it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from cli_models import SIZE, Ran, Tiny

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")
KEY = "model.test_cfg.rcnn.mask_thr_binary"


@pytest.fixture(scope="module")
def graph(masked: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mask model's graph with masks by region, exported once, at the config's 0.5."""
    from pytest_onnxdet.cli import main

    path = tmp_path_factory.mktemp("masks") / "roi.onnx"
    words = ["export", *map(str, masked), "--output-file", str(path), "--dynamic-export"]
    assert main([*words, "--shape", *SIZE, "--opset-version", "16"]) == 0
    return path


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_verify_and_test_cut_where_mmdet_does(
    onnxdet: Run, masked: Tiny, graph: Path, tmp_path: Path, threshold: float
) -> None:
    """Red before: masks were cut at 0.5 in one of the two; and the pixels' ties hid it."""
    import pickle

    from pytest_onnxdet.commands.common import build, open_config
    from pytest_onnxdet.commands.evaluate import open_data
    from pytest_onnxdet.commands.results import mmdet_result
    from pytest_onnxdet.data.batches import Batches
    from pytest_onnxdet.reference.detector import Reference

    option = ("--cfg-options", f"{KEY}={threshold}")
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE, "--opset-version", "16")
    ran = onnxdet("export", *masked, *words, "--verify", *option)
    assert ran.code == 0, ran.out
    assert "least mask IoU: 1" in ran.out and "tie with the threshold" not in ran.out

    model = open_config(str(masked.config), {KEY: threshold})
    data = open_data(model)
    reference = Reference(build(model, str(masked.checkpoint)))
    wanted = [
        mmdet_result(result, len(data.coco.CLASSES))
        for batch in Batches(data, 1)
        for result in reference.run(batch)
    ]
    ran = onnxdet("test", masked.config, graph, *ORT, "--out", tmp_path / "r.pkl", *option)
    assert ran.code == 0, ran.err
    elsewhere = Reference(
        build(open_config(str(masked.config), {KEY: 0.5}), str(masked.checkpoint))
    )
    others = [
        mmdet_result(result, len(data.coco.CLASSES))
        for batch in Batches(data, 1)
        for result in elsewhere.run(batch)
    ]
    ours = pickle.loads((tmp_path / "r.pkl").read_bytes())
    # A probability may be a rounding from the threshold, on one processor and not on another.
    assert pixels(wanted, ours) <= 4 < 100 < pixels(wanted, others)


def pixels(ours: list[Any], theirs: list[Any]) -> int:
    """How many pixels of all masks differ between two lists of mmdet's results."""
    from pycocotools.mask import decode

    masks = [
        [mask for image in results for of_class in image[1] for mask in of_class]
        for results in (ours, theirs)
    ]
    assert len(masks[0]) == len(masks[1]) > 0
    return sum(int((decode(a) != decode(b)).sum()) for a, b in zip(*masks, strict=True))


@pytest.mark.parametrize("value", ["-1", "1", "1.5", "nan"])
def test_one_that_no_mask_fits_is_refused_by_its_full_name(
    onnxdet: Run, masked: Tiny, graph: Path, tmp_path: Path, value: str
) -> None:
    option = ("--cfg-options", f"{KEY}=float('{value}')" if value == "nan" else f"{KEY}={value}")
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE, "--opset-version", "16")
    for ran in (
        onnxdet("export", *masked, *words, *option),
        onnxdet("test", masked.config, graph, *ORT, "--out", tmp_path / "r.pkl", *option),
    ):
        assert ran.code == 2 and f"{KEY} is " in ran.err


def test_masks_that_are_cut_inside_say_at_what(
    onnxdet: Run, masked: Tiny, stock_masks: Path, tmp_path: Path
) -> None:
    props = {p.key: p.value for p in onnx.load(str(stock_masks)).metadata_props}
    assert props == {"mask_thr_binary": "0.5"}
    out = ("--out", tmp_path / "r.pkl")
    option = ("--cfg-options", f"{KEY}=0.7")
    ran = onnxdet("test", masked.config, stock_masks, *ORT, *out, *option)
    assert ran.code == 2
    assert f"{KEY} is 0.7, and the masks of" in ran.err and "are cut at 0.5" in ran.err
