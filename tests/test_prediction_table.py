"""The tool that compares a mini's verdicts with the full-size detector's. Fakes judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import onnx
import pytest
from mmcv import Config
from onnx import TensorProto, helper, numpy_helper
from prediction_sides import Keeping, Places, common_place, kind, raise_thresholds
from prediction_table import agree, chosen, main, remarks, table
from torch import nn

from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.mutants import Operator, operators
from pytest_onnxdet.verify.selftest import BELOW, CAUGHT, EQUIVALENT, SURVIVED, MutantResult

BY_NAME = {operator.name: operator for operator in operators()}
LAYER = BY_NAME["scale_weight_1.01"]


def chain(*names: str, constant: float = 0.5) -> onnx.ModelProto:
    """A graph of 1 x 1 convolutions of these names."""
    weight = numpy_helper.from_array(np.full((1, 1, 1, 1), constant, np.float32), "weight")
    nodes, last = [], "input"
    for name in names:
        nodes.append(helper.make_node("Conv", [last, "weight"], [f"{name}_out"], name))
        last = f"{name}_out"
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 1, 4, 4)) for n in ("input", last)
    ]
    return helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:], [weight]))


def test_a_place_of_the_same_name_comes_first() -> None:
    mini, full = chain("/a/c0/Conv", "/a/c1/Conv"), chain("/a/c9/Conv", "/a/c1/Conv", "/a/c2/Conv")
    for salt in ("one", "two", "three"):
        assert common_place(LAYER, mini, full, salt) == ("/a/c1/Conv", "/a/c1/Conv")


def test_else_one_of_the_same_kind_as_far_along() -> None:
    mini = chain("/b/Conv", "/a/c0/Conv", "/a/c1/Conv")
    full = chain(*(f"/a/c{number}/Conv" for number in range(4, 8)))
    found = {common_place(LAYER, mini, full, salt) for salt in map(str, range(9))}
    assert found == {("/a/c0/Conv", "/a/c4/Conv"), ("/a/c1/Conv", "/a/c6/Conv")}
    assert kind("/a/c12/Conv_3") == kind("/a/c0/Conv_11") != kind("/b/c0/Conv_3")


def test_no_place_where_a_graph_does_not_take_the_fault() -> None:
    assert common_place(LAYER, chain("/a/Conv"), chain("/b/Conv"), "") is None
    assert common_place(LAYER, chain("/a/Conv"), chain("/a/Conv", constant=0.0), "") is None
    assert common_place(BY_NAME["anchors"], chain("/a/Conv"), chain("/a/Conv"), "") is None


class Fake:
    """Stands for both sides: takes all faults but some, and says what it is told to."""

    def __init__(self, says: dict[str, tuple[str, str]] | None = None, lacks: str = "") -> None:
        self.says, self.lacks = says or {}, lacks
        self.asked: list[str] = []
        self.opened = 0

    def __call__(self, name: str) -> Fake:
        return self

    def places(self, operator: Operator) -> Places | None:
        return None if operator.group == self.lacks else ("", "")

    def judged(self, operator: Operator, places: Places) -> Iterator[MutantResult]:
        self.asked.append(operator.name)
        for outcome in self.says.get(operator.name, (CAUGHT, CAUGHT)):
            check = "raw" if outcome == CAUGHT else ""
            yield MutantResult(operator, places[0], outcome, check, 41.26, "why")

    def __enter__(self) -> Self:
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None: ...


def names(sides: Fake, place: int, each: int) -> list[str]:
    return [operator.name for operator, _ in chosen(sides, place, each)]


def test_faults_are_taken_at_even_steps_and_begin_elsewhere_for_each_model() -> None:
    every = [operator.name for operator in operators()]
    assert names(Fake(), 0, len(every)) == every
    few = names(Fake(), 0, 10)
    assert few == [every[number * len(every) // 10] for number in range(10)]
    assert not set(few) & set(names(Fake(), 1, 10))


def test_where_a_fault_has_no_place_the_next_is_taken_and_none_twice() -> None:
    found = names(Fake(lacks="slots"), 0, 60)
    assert len(found) == len(set(found)) == 60
    assert not any(BY_NAME[name].group == "slots" for name in found)
    takers = [operator for operator in operators() if operator.group != "slots"]
    assert sorted(names(Fake(lacks="slots"), 0, 500)) == sorted(one.name for one in takers)


def call(log: Path, sides: Fake, *more: str) -> int:
    return main([f"--log={log}", "--models=ssd,detr", "--each=4", *more], sides)


def test_each_fault_is_a_line_and_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, sides = tmp_path / "log.jsonl", Fake()
    assert call(log, sides) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["operator"] for line in lines] == sides.asked and len(lines) == 8
    assert {line["model"] for line in lines} == {"ssd", "detr"}
    assert "8 of 8 verdicts agree" in capsys.readouterr().out
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines[:-1]))
    again = Fake()
    assert call(log, again) == 0
    assert again.asked == sides.asked[-1:] and again.opened == 1
    other = Fake()
    assert call(log, other, "--size=320") == 0
    assert other.asked == sides.asked


def test_a_model_has_the_same_faults_whichever_others_are_asked_for(tmp_path: Path) -> None:
    alone, first = Fake(), Fake()
    call(tmp_path / "alone.jsonl", alone, "--models=detr")
    call(tmp_path / "first.jsonl", first, "--models=detr,yolov3")
    assert first.asked[:4] == alone.asked != first.asked[4:]


def test_a_fault_that_breaks_leaves_what_was_done(tmp_path: Path) -> None:
    sides = Fake()
    sides.says = {names(sides, 0, 4)[2]: ()}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="zip"):
        call(tmp_path / "log.jsonl", sides, "--models=yolov3")
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("mini", "full", "same"),
    [
        (CAUGHT, CAUGHT, True),
        (BELOW, EQUIVALENT, True),
        (BELOW, SURVIVED, True),
        (CAUGHT, BELOW, False),
        (EQUIVALENT, CAUGHT, False),
    ],
)
def test_red_or_green_is_what_agrees(
    mini: str,
    full: str,
    same: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log, sides = tmp_path / "log.jsonl", Fake()
    first = names(sides, 0, 4)[0]
    sides.says = {first: (mini, full)}
    assert call(log, sides, "--models=yolov3") == (not same)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert agree(entries[0]) is same and all(map(agree, entries[1:]))
    assert ("**differ**" in capsys.readouterr().out) is not same
    assert bool(remarks(entries)) is (not same or SURVIVED in (mini, full))


def test_the_tables() -> None:
    def entry(model: str, mini: str, full: str) -> dict[str, Any]:
        def one(outcome: str) -> dict[str, Any]:
            check, margin = ("raw", 41.26) if outcome == CAUGHT else ("", None)
            return {"mutant": outcome, "caught_by": check, "margin": margin}

        return {
            "model": model,
            "operator": "ghosts",
            "group": "slots",
            "mini": one(mini),
            "full": one(full),
        }

    lines = table(
        [
            entry("ssd", CAUGHT, CAUGHT),
            entry("ssd", CAUGHT, BELOW),
            entry("detr", BELOW, BELOW),
            entry("detr", BELOW, CAUGHT),
        ]
    )
    assert lines[2:5] == [
        "| ssd | 2 | 1 | 0 | 1 | 0 | 50.0% |",
        "| detr | 2 | 0 | 1 | 0 | 1 | 50.0% |",
        "| together | 4 | 1 | 1 | 1 | 1 | 50.0% |",
    ]
    assert lines[-4:] == [
        "| `ghosts` | slots | ssd | raw 41.3 | raw 41.3 |",
        "| `ghosts` **differ** | slots | ssd | raw 41.3 | below |",
        "| `ghosts` | slots | detr | below | below |",
        "| `ghosts` **differ** | slots | detr | below | raw 41.3 |",
    ]


def test_a_model_that_has_no_mini_is_refused(tmp_path: Path) -> None:
    for argv in (["--models=ssd,none"], ["--each=0"]):
        with pytest.raises(SystemExit):
            main([f"--log={tmp_path / 'log'}", *argv], Fake())


def test_proofs_have_the_raw_outputs_once_and_the_noise_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[Any] = []

    def raw(self: Reference, batch: Any) -> dict[str, Any]:
        runs.append(batch)
        return {"cls": batch.images + len(runs)}

    monkeypatch.setattr(Reference, "raw", raw)
    made: Any = Keeping(None, None)  # type: ignore[arg-type]
    batches = [
        SimpleNamespace(images=np.full(3, value), image_shape=np.ones(2)) for value in range(5)
    ]
    made.raw(batches[0]), made.raw(batches[0])
    assert len(runs) == 2
    made.keeping = True
    assert made.raw(batches[0]) is made.raw(SimpleNamespace(**vars(batches[0])))
    for batch in batches:
        made.raw(batch)
    assert len(runs) == 3 + 4
    assert made.raw(batches[4])["cls"][0] == 4 + 7 and len(runs) == 7
    made.raw(batches[0])
    assert len(runs) == 8


def test_thresholds_are_raised_in_the_config_and_in_every_part() -> None:
    def config(**values: float) -> Config:
        return Config({"max_per_img": 9, **values})

    dense, yolo = config(score_thr=0.05), config(score_thr=0.05, conf_thr=0.005)
    two_stage = Config({"rpn": {"nms_pre": 9}, "rcnn": {"score_thr": 0.05}})
    for cfg, path in ((dense, ()), (yolo, ()), (two_stage, ("rcnn",))):
        part = nn.Module()
        part.test_cfg = cfg  # type: ignore[assignment]
        detector: Any = nn.Sequential(nn.Identity(), part)
        detector.cfg = Config({"model": {"test_cfg": cfg.to_dict()}})
        raise_thresholds(detector, 0.25)
        for held in (part.test_cfg, detector.cfg.model.test_cfg):
            for name in path:
                held = held[name]
            assert held["score_thr"] == (0.5 if "conf_thr" in held else 0.25)
            assert held.get("conf_thr", 0.5) == 0.5
    queries: Any = nn.Identity()
    queries.cfg = Config({"model": {"test_cfg": {"max_per_img": 9}}})
    raise_thresholds(queries, 0.25)
    assert queries.cfg.model.test_cfg == {"max_per_img": 9}
