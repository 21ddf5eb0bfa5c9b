"""``onnxdet test``: every argument, by what it changes."""

import json
import pickle
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_models import Ran, Tiny
from draw_voc import draw

from pytest_onnxdet.data.datasets import SHAPES

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")


def load(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def test_results_are_pytorchs_in_mmdets_format(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path
) -> None:
    from pytest_onnxdet.backends.pytorch import Reference
    from pytest_onnxdet.commands.common import build, open_config
    from pytest_onnxdet.commands.evaluate import open_data
    from pytest_onnxdet.data.batches import Batches

    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--out", tmp_path / "r.pkl")
    assert ran.code == 0, ran.err
    assert "6 images in" in ran.out and "test: 6/6 images (100 %)" in ran.err
    results = load(tmp_path / "r.pkl")
    model = open_config(str(tiny.config), None)
    reference = Reference(build(model, str(tiny.checkpoint)))
    wanted = [
        found.to_mmdet(3)
        for batch in Batches(open_data(model), 1)
        for found in reference.run(batch)
    ]
    assert len(results) == len(wanted) == 6
    for ours, theirs in zip(results, wanted, strict=True):
        assert [rows.shape for rows in ours] == [rows.shape for rows in theirs]
        assert all(rows.dtype == np.float32 for rows in ours)
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=1e-2)

    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--out", tmp_path / "b.pickle", "--batch-size", 4)
    )
    assert ran.code == 0, ran.err
    batched = load(tmp_path / "b.pickle")
    assert [len(np.concatenate(r)) for r in batched] == [len(np.concatenate(r)) for r in results]


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


def test_show_dir_and_threshold(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def changed(threshold: str) -> int:
        folder = tmp_path / threshold
        ran = onnxdet(
            *("test", tiny.config, dynamic, *ORT, "--show", "--show-dir", folder),
            *("--show-score-thr", threshold),
        )
        assert ran.code == 0 and "no display" in ran.err
        assert len(list(folder.iterdir())) == 6
        path = sorted(folder.iterdir())[0]
        original: Any = cv2.imread(str(SHAPES / "val" / path.name))
        return int((cv2.imread(str(path)) != original).any(axis=2).sum())

    assert changed("0.05") > changed("0.9999") == 0


def test_cfg_options_choose_the_data(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, few: Path
) -> None:
    document = json.loads(few.read_text())
    document["images"] = document["images"][:2]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
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


def test_voc(onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path) -> None:
    root = draw(tmp_path, 4)
    options = (
        "--cfg-options",
        "data.test.type=VOCDataset",
        f"data.test.ann_file={root / 'ImageSets/Main/test.txt'}",
        f"data.test.img_prefix={root}/",
    )
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--eval", "mAP", "recall", *options),
        *("--eval-options", "iou_thr=0.1", "--show-dir", tmp_path / "show"),
    )
    assert ran.code == 0, ran.err
    figures = dict(line.split(": ") for line in ran.out.splitlines() if line.count(": ") == 1)
    assert float(figures["mAP"]) >= 0 and "AP10" in figures
    assert 0 < float(figures["recall@100@0.1"]) <= 1
    assert (tmp_path / "show" / "JPEGImages" / "000.jpg").is_file()
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--eval", "bbox", *options)
    assert ran.code == 2 and "VOCDataset has the metrics mAP, recall" in ran.err
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--format-only", *options)
    assert ran.code == 2 and "has no result format" in ran.err


def test_mmdets_own_tool_reads_the_results(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import mmdet

    tool = Path(mmdet.__file__).parent / ".mim/tools/analysis_tools/eval_metric.py"
    if not tool.is_file():
        pytest.skip("this mmdet was installed without its tools")
    onnxdet("test", tiny.config, dynamic, *ORT, "--out", tmp_path / "r.pkl")
    words = [str(tool), str(tiny.config), str(tmp_path / "r.pkl"), "--eval", "bbox"]
    monkeypatch.setattr(sys, "argv", [*words, "--cfg-options", "evaluation.interval=1"])
    runpy.run_path(str(tool), run_name="__main__")
    assert "bbox_mAP" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "nothing to do: ask for at least one of --out"),
        (("--eval", "bbox", "--format-only"), "exclude each other"),
        (("--out", "r.json"), "must end in .pkl or .pickle"),
        (("--out", "no/r.pkl"), "there is no folder no"),
        (("--eval", "mAP"), "CocoDataset has the metrics bbox, segm, proposal"),
        (("--eval", "segm"), "the model gives no masks"),
        (("--eval", "bbox", "--eval-options", "colour=1"), "does not take this"),
        (("--eval", "bbox", "--batch-size", "0"), "--batch-size: 0"),
        (
            ("--eval", "bbox", "--cfg-options", "data.test.ann_file=gone.json"),
            "gone.json: the test",
        ),
        (("--eval", "bbox", "--cfg-options", "data.test.classes=[a,b]"), "has 0 of the 2 classes"),
        (("--eval", "bbox", "--cfg-options", "data.test.classes=[circle]"), "finds class 2, but"),
    ],
)
def test_mistakes_are_told_in_one_message(
    onnxdet: Run, tiny: Tiny, dynamic: Path, words: tuple[str, ...], told: str
) -> None:
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 2 and told in ran.err, ran.err


def test_the_backend_has_to_be_named_and_there(onnxdet: Run, tiny: Tiny, dynamic: Path) -> None:
    ran = onnxdet("test", tiny.config, dynamic, "--eval", "bbox")
    assert ran.code == 2 and "--backend" in ran.err
    from pytest_onnxdet.backends import builtin_backends

    backend = builtin_backends().get("tensorrt")
    if backend is None or backend.missing():
        ran = onnxdet("test", tiny.config, dynamic, "--backend", "tensorrt", "--eval", "bbox")
        assert ran.code == 2 and "--backend tensorrt: " in ran.err


def test_models_that_are_none(onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path) -> None:
    common = ("test", tiny.config)
    graph = onnx.load(str(dynamic))

    def told(name: str, *words: str) -> str:
        ran = onnxdet(*common, tmp_path / name, *ORT, "--eval", "bbox", *words)
        assert ran.code == 2
        return ran.err

    assert "gone.onnx: no such file" in told("gone.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    assert "text.onnx: not a readable ONNX file" in told("text.onnx")
    (tmp_path / "net.engine").write_bytes(b"engine")
    assert "onnxruntime runs .onnx files" in told("net.engine")
    graph.graph.node[0].domain = "mmcv"
    onnx.save(graph, str(tmp_path / "custom.onnx"))
    assert "needs custom operators of mmcv" in told("custom.onnx")
    info = onnx.helper.make_tensor_value_info
    for name, given in (("odd.onnx", "image"), ("raw.onnx", "input")):
        node = onnx.helper.make_node("Identity", [given], ["cls_score_0"])
        shape = ["batch", 3, "height", "width"]
        made = onnx.helper.make_graph(
            [node], "g", [info(given, 1, shape)], [info("cls_score_0", 1, shape)]
        )
        opset = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(made, ir_version=8, opset_imports=opset)
        onnx.save(model, str(tmp_path / name))
    assert "takes image: a detector's graph takes input" in told("odd.onnx")
    assert "no dets and no labels" in told("raw.onnx")


def test_recall_pairs_each_object_with_one_box() -> None:
    from pytest_onnxdet.commands.recall import recalls

    objects = [np.array([[0, 0, 9, 9], [20, 20, 29, 29]], np.float32), np.zeros((0, 4), np.float32)]
    twice = np.array([[0, 0, 9, 9, 0.9], [0, 0, 9, 8, 0.8]], np.float32)
    far = np.array([[20, 20, 29, 24, 0.7]], np.float32)
    results = [[twice, far], [far, far]]
    assert recalls(objects, results, (2, 3), 0.5) == {"recall@2@0.5": 0.5, "recall@3@0.5": 1.0}
    several = recalls(objects, results, (3,), [0.5, 0.9])
    assert several["AR@3"] == 0.75
    assert recalls(objects[1:], results[1:]) == {f"recall@{n}@0.5": 0.0 for n in (100, 300, 1000)}
