"""``onnxdet test``: every argument, by what it changes."""

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_models import Ran, Tiny

from pytest_onnxdet.commands import test as command
from pytest_onnxdet.data.datasets import SHAPES

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")


def test_defaults_are_the_stock_tools() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = vars(parser.parse_args(["a.py", "a.onnx", *ORT]))
    wanted = {
        "out": None,
        "format_only": False,
        "backend": "onnxruntime",
        "eval": None,
        "show": False,
        "show_dir": None,
        "show_score_thr": 0.3,
        "cfg_options": None,
        "eval_options": None,
        "batch_size": None,
    }
    assert {name: args[name] for name in wanted} == wanted


def load(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def assert_pytorchs(results: Any, tiny: Tiny, size: int) -> None:
    """That results are those of PyTorch on batches of this size, in mmdet's format."""
    from pytest_onnxdet.commands.common import build, open_config
    from pytest_onnxdet.commands.evaluate import open_data
    from pytest_onnxdet.data.batches import Batches
    from pytest_onnxdet.reference.detector import Reference

    model = open_config(str(tiny.config), None)
    reference = Reference(build(model, str(tiny.checkpoint)))
    wanted = [
        result.to_mmdet(3)
        for batch in Batches(open_data(model), size)
        for result in reference.run(batch)
    ]
    assert len(results) == len(wanted) == 6
    for ours, theirs in zip(results, wanted, strict=True):
        assert [rows.shape for rows in ours] == [rows.shape for rows in theirs]
        assert all(rows.dtype == np.float32 for rows in ours)
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=1e-2)


def test_results_are_pytorchs_in_mmdets_format(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path
) -> None:
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--out", tmp_path / "r.pkl")
    assert ran.code == 0, ran.err
    assert "6 images in" in ran.out and "test: 100% 6/6" in ran.err
    assert_pytorchs(load(tmp_path / "r.pkl"), tiny, 1)


@pytest.mark.parametrize(
    ("words", "batches"),
    [
        ((), [1] * 6),
        (("--batch-size", 4), [4, 2]),
        (("--cfg-options", "data.test.samples_per_gpu=3"), [3, 3]),
        (("--cfg-options", "data.test.samples_per_gpu=3", "--batch-size", 2), [2, 2, 2]),
    ],
    ids=["one", "asked", "configured", "both"],
)
def test_a_dynamic_graph_runs_batches(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    runs: list[int],
    words: tuple[object, ...],
    batches: list[int],
) -> None:
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--out", tmp_path / "r.pkl", *words)
    assert ran.code == 0, ran.err
    assert runs == batches
    # Not those of images alone: a batch pads its images to one size, and boxes move.
    assert_pytorchs(load(tmp_path / "r.pkl"), tiny, batches[0])


@pytest.mark.parametrize("place", ["test", "test_dataloader"])
@pytest.mark.parametrize(
    ("words", "batches"),
    [
        ((), [4, 2]),
        (("--cfg-options", "data.test.samples_per_gpu=3"), [3, 3]),
        (("--batch-size", 5), [5, 1]),
    ],
    ids=["file", "option", "asked"],
)
def test_the_config_file_says_the_batch_size(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    runs: list[int],
    place: str,
    words: tuple[object, ...],
    batches: list[int],
) -> None:
    config = tmp_path / "batched.py"
    config.write_text(f"_base_ = '{tiny.config}'\ndata = dict({place}=dict(samples_per_gpu=4))\n")
    ran = onnxdet("test", config, dynamic, *ORT, "--out", tmp_path / "r.pkl", *words)
    assert ran.code == 0, ran.err
    assert runs == batches


def test_several_metrics_at_once_and_their_options(onnxdet: Run, tiny: Tiny, dynamic: Path) -> None:
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--eval", "bbox", "proposal"),
        *("--eval-options", "classwise=True"),
    )
    assert ran.code == 0, ran.err
    assert "Evaluating bbox" in ran.out and "Evaluating proposal" in ran.out
    assert "bbox_mAP: " in ran.out and "triangle" in ran.out  # a line for each class


def test_masks_from_a_stock_graph(
    onnxdet: Run, masked: Tiny, stock_masks: Path, tmp_path: Path
) -> None:
    ran = onnxdet(
        *("test", masked.config, stock_masks, *ORT, "--eval", "bbox", "segm"),
        *("--out", tmp_path / "m.pkl", "--batch-size", 2),
    )
    assert ran.code == 0, ran.err
    assert "bbox_mAP: " in ran.out and "segm_mAP: " in ran.out
    boxes, masks = load(tmp_path / "m.pkl")[0]
    assert [len(rows) for rows in boxes] == [len(of_class) for of_class in masks]
    first = next(mask for of_class in masks for mask in of_class)
    document = json.loads((SHAPES / "annotations.json").read_text())["images"][0]
    assert first["size"] == [document["height"], document["width"]]

    # The stock tool's masks are 0 and 1 in float32; the results must not depend on it.
    graph = onnx.load(str(stock_masks))
    value = next(v for v in graph.graph.output if v.name == "masks")
    for node in graph.graph.node:
        node.output[:] = ["bool_masks" if name == "masks" else name for name in node.output]
    cast = onnx.helper.make_node("Cast", ["bool_masks"], ["masks"], to=onnx.TensorProto.FLOAT)
    graph.graph.node.append(cast)
    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(graph, str(tmp_path / "float.onnx"))
    ran = onnxdet(
        *("test", masked.config, tmp_path / "float.onnx", *ORT, "--out", tmp_path / "f.pkl"),
        *("--batch-size", 2),
    )
    assert ran.code == 0, ran.err
    assert repr(load(tmp_path / "f.pkl")) == repr(load(tmp_path / "m.pkl"))


def test_format_only(onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path) -> None:
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--format-only"),
        *("--eval-options", f"jsonfile_prefix={tmp_path / 'coco'}"),
    )
    assert ran.code == 0, ran.err
    entries = json.loads((tmp_path / "coco.bbox.json").read_text())
    assert {"image_id", "category_id", "bbox", "score"} <= set(entries[0])
    assert "coco.bbox.json" in ran.out and "bbox_mAP" not in ran.out


def test_cfg_options_choose_the_data(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, few: Path
) -> None:
    document = json.loads(few.read_text())
    document["images"] = document["images"][:2]
    chosen = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in chosen]
    (tmp_path / "two.json").write_text(json.dumps(document))
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--out", tmp_path / "r.pkl"),
        *("--cfg-options", f"data.test.ann_file={tmp_path / 'two.json'}"),
    )
    assert ran.code == 0 and len(load(tmp_path / "r.pkl")) == 2


def test_a_static_graph_takes_its_own_batch_and_size(
    onnxdet: Run, tiny: Tiny, tmp_path: Path
) -> None:
    file = tmp_path / "s.onnx"
    assert (
        onnxdet(*("export", *tiny, "--output-file", file, "--shape", 128, "--batch", 4)).code == 0
    )
    ran = onnxdet("test", tiny.config, file, *ORT, "--out", tmp_path / "r.pkl")
    assert ran.code == 0 and len(load(tmp_path / "r.pkl")) == 6  # of 2 x 4, the rest is filling
    ran = onnxdet("test", tiny.config, file, *ORT, "--eval", "bbox", "--batch-size", 2)
    assert ran.code == 2 and "takes batches of 4" in ran.err
    options = ("--cfg-options", "data.test.pipeline.1.img_scale=(256,192)")
    ran = onnxdet("test", tiny.config, file, *ORT, "--eval", "bbox", *options)
    assert ran.code == 2 and "does not fit the batch's 128 x 128" in ran.err
