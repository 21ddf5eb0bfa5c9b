"""``data.test`` as a wrapper or a list: used where it leaves nothing open, named where it does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_models import SIZE, Ran, Tiny, data_of
from tiny_retinanet import PIPELINE, TINY

from pytest_onnxdet.data.datasets import SHAPES
from pytest_onnxdet.models.wrapped import SeveralDataSets, inner

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")
ONE = "data['test']"
WRAPPERS = {
    "RepeatDataset": f"dict(type='RepeatDataset', times=2, dataset={ONE})",
    "ClassBalancedDataset": f"dict(type='ClassBalancedDataset', oversample_thr=.1, dataset={ONE})",
    "ConcatDataset": f"dict(type='ConcatDataset', datasets=[{ONE}])",
    "a list": f"[{ONE}]",
    "nested": f"dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', "
    f"datasets=[{ONE}]))",
    "files": f"dict({ONE}, ann_file=[{ONE}['ann_file']])",
}
SEVERAL = {
    "a ConcatDataset": f"dict(type='ConcatDataset', datasets=[{ONE}, {ONE}])",
    "a list": f"[{ONE}, {ONE}]",
    "one with several files": f"dict({ONE}, ann_file=[{ONE}['ann_file']] * 2)",
}
OTHER = {
    "pipeline": f"[{ONE}, dict({ONE}, pipeline=test_pipeline[:1])]",
    "classes": f"[{ONE}, dict({ONE}, classes=('a', 'b', 'c'))]",
}


def written(folder: Path, few: Path, test: str) -> Path:
    path = folder / "wrapped.py"
    path.write_text(f"{TINY}{PIPELINE}{data_of(few, SHAPES / 'val')}\ndata = dict(test={test})\n")
    return path


@pytest.mark.parametrize("test", WRAPPERS.values(), ids=list(WRAPPERS))
def test_one_data_set_is_tested_and_exported(
    onnxdet: Run, tiny: Tiny, dynamic: Path, few: Path, tmp_path: Path, test: str
) -> None:
    config = written(tmp_path, few, test)
    plain = onnxdet("test", tiny.config, dynamic, *ORT, "--eval", "bbox")
    ran = onnxdet("test", config, dynamic, *ORT, "--eval", "bbox")
    assert ran.code == 0 and ": the data set inside is tested, once" in ran.err, ran.err

    def figures(ran: Ran) -> list[str]:
        return [line for line in ran.out.splitlines() if line.startswith("bbox_")]

    assert figures(ran) == figures(plain) and len(figures(plain)) == 7
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE)
    assert onnxdet("export", config, tiny.checkpoint, *words).code == 0


@pytest.mark.parametrize(("wrapper", "test"), SEVERAL.items())
def test_several_alike_are_exported_and_named_in_a_test(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    few: Path,
    tmp_path: Path,
    runs: list[int],
    wrapper: str,
    test: str,
) -> None:
    config = written(tmp_path, few, test)
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE)
    assert onnxdet("export", config, tiny.checkpoint, *words).code == 0
    ran = onnxdet("test", config, dynamic, *ORT, "--eval", "bbox")
    said = f"wrapped.py: data.test is {wrapper} of 2 data sets: test one at a time"
    assert ran.code == 2 and said in ran.err and not runs


@pytest.mark.parametrize(("key", "test"), OTHER.items())
def test_several_that_differ_are_named(
    onnxdet: Run, tiny: Tiny, dynamic: Path, few: Path, tmp_path: Path, key: str, test: str
) -> None:
    config = written(tmp_path, few, test)
    said = f"wrapped.py: data.test is a list of 2 data sets that differ in their {key}: set data"
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE)
    for ran in (
        onnxdet("export", config, tiny.checkpoint, *words),
        onnxdet("test", config, dynamic, *ORT, "--eval", "bbox"),
    ):
        assert ran.code == 2 and said in ran.err, ran.err


@pytest.mark.parametrize("test", [None, [], (), "a", {}, {"type": "A"}, [[]], [None]])
def test_nothing_to_take_out(test: Any) -> None:
    assert inner(test).count <= 1


def test_types_that_bring_their_own_classes() -> None:
    voc, coco = ({"type": kind, "pipeline": []} for kind in ("VOCDataset", "CocoDataset"))
    with pytest.raises(SeveralDataSets, match="differ in their classes, as their types do"):
        inner([voc, coco])
    assert inner([{**voc, "classes": ["a"]}, {**coco, "classes": ["a"]}]).count == 2
