"""``onnxdet test``: what is refused, and when."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_models import Ran, Tiny, data_of
from tiny_retinanet import PIPELINE, TINY

from pytest_onnxdet.data.datasets import SHAPES

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to do: ask for at least one of --out"),
        (("--eval", "bbox", "--format-only"), "exclude each other"),
        (("--out", "r.json"), "must end in .pkl or .pickle"),
        (("--out", "no/r.pkl"), "there is no folder no"),
        (("--show-dir", "s3://b/pictures"), "s3://b/pictures is an address: give a folder of this"),
        (("--eval", "mAP"), "CocoDataset has the metrics bbox, segm, proposal"),
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
    onnxdet: Run, tiny: Tiny, dynamic: Path, words: tuple[str, ...], message: str
) -> None:
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 2 and message in ran.err, ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--eval", "bbox", "--eval-options", "colour=1"), "--eval-options: no colour; there are"),
        (("--eval", "proposal_fast"), "--eval proposal_fast: is of proposal networks"),
        (
            ("--eval", "bbox", "--eval-options", "iou_thrs=0.5"),
            "--eval-options iou_thrs: 0.5: give a list of overlaps above 0, up to 1: iou_thrs=",
        ),
        (
            ("--eval", "bbox", "--cfg-options", "evaluation.proposal_nums=9"),
            "the config's evaluation: proposal_nums: 9: give a list",
        ),
        (
            ("--eval", "mAP", "--cfg-options", "data.test.type=CustomDataset"),
            "is no list of images with a filename, which a CustomDataset reads: correct data.te",
        ),
        (("--format-only", "--eval-options", "classwise=True"), "there are jsonfile_prefix"),
        (
            ("--eval", "bbox", "--eval-options", "metric_items=mAP,mAP_9"),
            "--eval-options metric_items: no mAP_9; there are mAP, mAP_50",
        ),
        (
            ("--eval", "bbox", "--cfg-options", "evaluation.colour=1"),
            "the config's evaluation: no colour; there are",
        ),
        (
            ("--eval", "mAP", "--cfg-options", "data.test.type=VOCDataset"),
            "the test data cannot be opened",
        ),
    ],
)
def test_what_evaluation_does_not_take_is_refused_before_the_run(
    onnxdet: Run, tiny: Tiny, dynamic: Path, runs: list[int], words: tuple[str, ...], message: str
) -> None:
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 2 and message in ran.err, ran.err
    assert not runs


def test_masks_of_a_model_without_are_missed_at_the_first_image(
    onnxdet: Run, tiny: Tiny, dynamic: Path, runs: list[int], tmp_path: Path
) -> None:
    words = ("--eval", "bbox", "segm", "--out", tmp_path / "r.pkl")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 2 and "--eval segm: the model gives no masks" in ran.err
    assert runs == [1]


@pytest.mark.parametrize("kind", [KeyError, TypeError])
def test_what_fails_in_mmdet_is_not_blamed_on_options(
    onnxdet: Run, tiny: Tiny, dynamic: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    from mmdet.datasets import CocoDataset

    def evaluate(self: Any, results: Any, metric: Any, classwise: bool = False) -> None:
        raise kind("a fault of its own")

    monkeypatch.setattr(CocoDataset, "evaluate", evaluate)
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--eval", "bbox", "--eval-options", "classwise=True")
    )
    assert ran.code == 2 and f"unforeseen {kind.__name__}: " in ran.err
    assert "a fault of its own" in ran.err and "--eval-options" not in ran.err


def test_what_a_config_says_to_the_training_loop_is_left_out(
    onnxdet: Run, tiny: Tiny, dynamic: Path
) -> None:
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--eval", "bbox", "--cfg-options"),
        *("evaluation.interval=1", "evaluation.metric=bbox", "evaluation.save_best=auto"),
        *("evaluation.by_epoch=True", "evaluation.metric_items=[mAP_75]"),
    )
    assert ran.code == 0, ran.err
    assert "bbox_mAP_75: " in ran.out and "bbox_mAP_50: " not in ran.out


def test_several_data_sets_are_told(onnxdet: Run, tmp_path: Path, dynamic: Path, few: Path) -> None:
    config = tmp_path / "two.py"
    one = data_of(few, SHAPES / "val")
    config.write_text(f"{TINY}{PIPELINE}{one}\ndata = dict(test=[data['test'], data['test']])\n")
    ran = onnxdet("test", config, dynamic, *ORT, "--eval", "bbox")
    assert ran.code == 2 and "two.py: data.test is a list of 2 data sets: test one" in ran.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("data.test=a.json,b.json", "data.test is a list now, not one data set"),
        ("data.test=a.json", "data.test is a str now, not one data set"),
        ("data=1", "data.test is a int now, not one data set"),
        ("data.test.samples_per_gpu=0", "data.test.samples_per_gpu: 0: give a number, 1 or more"),
        ("data.test.samples_per_gpu=all", "data.test.samples_per_gpu: 'all': give a number"),
        ("data.test.pipeline=3", "`data.test.pipeline` is 3: give a list of dict(type=...)"),
        ("data.test.pipeline=[]", "the test pipeline gives no img and no img_metas: end data."),
        ("data.test.pipeline.1.transforms=3", "`data.test.pipeline` is [{"),
        ("data.test.img_prefix=3", "data.test.img_prefix is 3: give a folder's path"),
        ("evaluation=3", "evaluation is 3: give a table, dict(...)"),
        ("model=3", "it has no `model` with a `type`"),
        ("model.type=RPN", "--eval bbox: the model is a proposal network, whose boxes have no"),
    ],
)
def test_options_that_leave_no_data_set_are_told(
    onnxdet: Run, tiny: Tiny, dynamic: Path, option: str, message: str
) -> None:
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--eval", "bbox", "--cfg-options", option)
    assert ran.code == 2 and message in ran.err and "unforeseen" not in ran.err, ran.err


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

    def message(name: str, *words: str) -> str:
        ran = onnxdet(*common, tmp_path / name, *ORT, "--eval", "bbox", *words)
        assert ran.code == 2
        return ran.err

    assert "gone.onnx: no such file" in message("gone.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    assert "text.onnx: not a readable ONNX file" in message("text.onnx")
    (tmp_path / "net.engine").write_bytes(b"engine")
    assert "onnxruntime runs .onnx files" in message("net.engine")
    graph.graph.node[0].domain = "mmcv"
    onnx.save(graph, str(tmp_path / "custom.onnx"))
    assert "needs custom operators of mmcv" in message("custom.onnx")
    info = onnx.helper.make_tensor_value_info
    for name, input_name in (("odd.onnx", "image"), ("raw.onnx", "input")):
        node = onnx.helper.make_node("Identity", [input_name], ["cls_score_0"])
        shape = ["batch", 3, "height", "width"]
        made = onnx.helper.make_graph(
            [node], "g", [info(input_name, 1, shape)], [info("cls_score_0", 1, shape)]
        )
        opset = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(made, ir_version=8, opset_imports=opset)
        onnx.save(model, str(tmp_path / name))
    assert "takes image: a detector's graph takes input" in message("odd.onnx")
    assert "no dets and no labels" in message("raw.onnx")


def nested(domain: str) -> onnx.ModelProto:
    """A detector's graph with an operator of a domain inside a branch."""
    helper = onnx.helper
    inner = helper.make_graph(
        [helper.make_node("Gelu", ["flat"], ["inside"], domain=domain)],
        "then",
        [],
        [helper.make_tensor_value_info("inside", 1, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["flat"], ["outside"])],
        "else",
        [],
        [helper.make_tensor_value_info("outside", 1, None)],
    )
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["flat"], keepdims=0),
        helper.make_node("Greater", ["flat", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["kept"], then_branch=inner, else_branch=other),
        helper.make_node("Mul", ["kept", "rows"], ["dets"]),
        helper.make_node("Identity", ["numbers"], ["labels"]),
    ]
    rows = np.float32([[[0, 0, 9, 9, 0]]])
    constants = {"zero": np.float32(0), "rows": rows, "numbers": np.int64([[0]])}
    graph = helper.make_graph(
        nodes,
        "nested",
        [helper.make_tensor_value_info("input", 1, [1, 3, "h", "w"])],
        [
            helper.make_tensor_value_info("dets", 1, [1, 1, 5]),
            helper.make_tensor_value_info("labels", 7, [1, 1]),
        ],
        [onnx.numpy_helper.from_array(np.array(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def test_onnx_runtimes_own_operators_need_no_compiling(
    onnxdet: Run, tiny: Tiny, tmp_path: Path
) -> None:
    onnx.save(nested("com.microsoft"), str(tmp_path / "own.onnx"))
    ran = onnxdet("test", tiny.config, tmp_path / "own.onnx", *ORT, "--out", tmp_path / "r.pkl")
    assert ran.code == 0, ran.err

    onnx.save(nested("mmcv"), str(tmp_path / "foreign.onnx"))
    ran = onnxdet("test", tiny.config, tmp_path / "foreign.onnx", *ORT, "--eval", "bbox")
    assert ran.code == 2 and "needs custom operators of mmcv" in ran.err


def test_which_operators_are_foreign() -> None:
    from pytest_onnxdet.graph.foreign import foreign_domains

    assert foreign_domains(nested("com.microsoft"), "onnxruntime") == []
    assert foreign_domains(nested("ai.onnx.ml"), "onnxruntime") == []
    assert foreign_domains(nested("com.microsoft"), "tensorrt") == ["com.microsoft"]
    assert foreign_domains(nested("mmcv"), "onnxruntime") == ["mmcv"]
    model = nested("local")
    body = [onnx.helper.make_node("Erf", ["x"], ["y"])]
    opsets = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("local", "Gelu", ["x"], ["y"], body, opsets))
    assert foreign_domains(model, "onnxruntime") == []
    model.functions[0].node[0].domain = "mmcv"
    assert foreign_domains(model, "onnxruntime") == ["mmcv"]


def test_an_engine_of_masks_that_are_maps_is_refused(tmp_path: Path) -> None:
    """Its masks were taken for those of regions."""
    from types import SimpleNamespace
    from typing import Any

    from mmcv import ConfigDict

    from pytest_onnxdet.commands.common import CommandError
    from pytest_onnxdet.commands.results import check_outputs
    from pytest_onnxdet.core.store import Artifact

    engine = Artifact(tmp_path / "net.engine", "", cached=False, info={})
    for head, refused in (("mask_head", True), ("panoptic_head", True), ("bbox_head", False)):
        settings = ConfigDict(type="SOLO", **{head: {"type": "Head"}})
        model: Any = SimpleNamespace(cfg=SimpleNamespace(model=settings), path=tmp_path / "own.py")
        if not refused:
            check_outputs(engine, model)
            continue
        with pytest.raises(CommandError, match=r"masks of SOLO are maps .* give the \.onnx file"):
            check_outputs(engine, model)
