"""``onnxdet coverage``: what comes out for a config, the log, the table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_models import Ran, Tiny, data_of
from tiny_retinanet import PIPELINE, TINY

from pytest_onnxdet.commands import coverage
from pytest_onnxdet.data.datasets import SHAPES
from pytest_onnxdet.models import calibrate as calibrating
from pytest_onnxdet.models.build import config_root
from pytest_onnxdet.reference.noise import Noise
from pytest_onnxdet.run import coverage as covering
from pytest_onnxdet.run.apart import ProcessEnded
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.coverage import (
    DETECTIONS,
    DIFFERS,
    EXACT,
    FAILED,
    PROPOSALS,
    REFUSED,
    SIZE,
    UNBUILDABLE,
    UNDECIDED,
    Covered,
    cover,
    covering_spec,
)
from pytest_onnxdet.verify.verdict import Verdict

Run = Callable[..., Ran]


def config_of(folder: Path, text: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(text + PIPELINE + data_of(SHAPES / "annotations.json", SHAPES / "val"))
    return path


def test_a_detector_that_lowers_is_exact(tiny: Tiny) -> None:
    one = cover(tiny.config, 128)
    assert (one.outcome, one.reason) == (EXACT, "")
    assert one.figures is not None and one.figures["detections"] >= 4
    assert one.figures["max_box_px"] < 0.01
    assert len(one.sizes) == 2


@pytest.mark.parametrize(
    ("old", "new", "outcome", "reason"),
    [
        ("type='RetinaHead'", "type='RetinaHeadOfMine'", UNBUILDABLE, "RetinaHeadOfMine"),
        ("dict(type='nms', iou", "dict(type='nms_of_mine', iou", REFUSED, "nms_of_mine"),
        ("model = dict(", "modell = dict(", UNBUILDABLE, "no `model`"),
    ],
)
def test_what_is_not_verified_has_its_reason(
    tmp_path: Path, old: str, new: str, outcome: str, reason: str
) -> None:
    one = cover(config_of(tmp_path, TINY.replace(old, new, 1)), 128)
    assert one.outcome == outcome, one
    assert reason in one.reason


def test_a_graph_that_detects_otherwise_differs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeSession

    own = OnnxRuntimeSession._run

    def moved(self: Any, feeds: Any) -> Any:
        return {
            name: value + 1 if name == "dets" else value for name, value in own(self, feeds).items()
        }

    monkeypatch.setattr(OnnxRuntimeSession, "_run", moved)
    one = cover(tiny.config, 128)
    assert one.outcome == DIFFERS and one.reason


def test_what_nobody_foresaw_is_a_failure(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("forward")

    monkeypatch.setattr("pytest_onnxdet.run.bench.Workbench.results", broken)
    one = cover(tiny.config, 128)
    assert (one.outcome, one.reason) == (FAILED, "KeyError: 'forward'")


def test_images_become_no_larger_than_asked(tiny: Tiny) -> None:
    place = "data.test.pipeline.1.img_scale"
    assert covering_spec(tiny.config, 64).overrides == {place: (64, 48)}
    assert covering_spec(tiny.config, 128).overrides == {}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The configs that are tried; what comes out is in their names."""
    names: list[str] = []

    def outcome(config: Path, size: int, timeout: float) -> Covered:
        names.append(config.stem)
        return Covered(str(config), config.stem.split("_")[0], f"because | {size}", seconds=1.0)

    monkeypatch.setattr(coverage, "in_a_process", outcome)
    return names


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / f"{name}.py" for name in names]
    for path in paths:
        path.write_text("model = dict(type='FCOS')\n")
    return paths


def test_the_table_has_a_row_each_and_counts(
    onnxdet: Run, tried: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "table.md"
    ran = onnxdet("coverage", *files(tmp_path, "exact_1", "refused_2"), "--out", out)
    assert ran.code == 0, ran
    assert sorted(tried) == ["exact_1", "refused_2"]
    lines = out.read_text().splitlines()
    assert [line.split(" | ")[2] for line in lines[2:4]] == [EXACT, REFUSED]
    assert f"because \\| {SIZE}" in lines[2]
    assert any(line.startswith("- refused: 1 structures, 1 configs") for line in lines)
    assert set(out.read_text().splitlines()) <= set(ran.out.splitlines())


@pytest.mark.parametrize(("name", "code"), [("differs_1", 1), ("failed_1", 1), ("unbuildable", 0)])
def test_the_exit_code_tells_faults_of_the_project(
    onnxdet: Run, tried: list[str], tmp_path: Path, name: str, code: int
) -> None:
    assert onnxdet("coverage", *files(tmp_path, name)).code == code


def test_a_log_is_gone_on_with(onnxdet: Run, tried: list[str], tmp_path: Path) -> None:
    paths, log = files(tmp_path, "exact_1", "exact_2"), tmp_path / "log.jsonl"
    onnxdet("coverage", paths[0], "--log", log)
    assert onnxdet("coverage", *paths, "--log", log).code == 0
    assert tried == ["exact_1", "exact_2"]
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [Path(entry["config"]).stem for entry in entries] == ["exact_1", "exact_2"]
    onnxdet("coverage", paths[0], "--log", log, "--size", 256)
    assert tried == ["exact_1", "exact_2", "exact_1"]


def test_what_is_known_is_shown_without_trying(
    onnxdet: Run, tried: list[str], tmp_path: Path
) -> None:
    paths, log = files(tmp_path, "exact_1", "exact_2"), tmp_path / "log.jsonl"
    onnxdet("coverage", paths[0], "--log", log)
    ran = onnxdet("coverage", *paths, "--log", log, "--known", "--out", tmp_path / "table.md")
    assert ran.code == 0 and tried == ["exact_1"]
    assert "exact_2.py | 1 | not run |" in (tmp_path / "table.md").read_text()
    assert "- not run: 1 structures, 1 configs: not tried yet" in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", 8), "--size 8: give at least 32"),
        (("-n", 0), "--processes 0: give at least 1"),
        (("--timeout", 0), "--timeout 0: give a number of seconds above 0"),
        (("no_such_config.py",), "no such config file"),
        (("--known",), "--known shows what a log has: name it with --log"),
    ],
)
def test_mistakes_are_told(
    onnxdet: Run, tried: list[str], words: tuple[object, ...], said: str
) -> None:
    ran = onnxdet("coverage", *words)
    assert ran.code == 2 and said in ran.err, ran
    assert not tried


def test_nothing_comes_over_a_config(onnxdet: Run, tried: list[str], tmp_path: Path) -> None:
    (path,) = files(tmp_path, "exact_1")
    for option in ("--out", "--log"):
        ran = onnxdet("coverage", path, option, path)
        assert ran.code == 2 and f"{option}: {path} is the config, and would" in ran.err, ran.err
    log = tmp_path / "log.jsonl"
    log.write_text("")
    ran = onnxdet("coverage", path, "--log", log, "--out", log)
    assert ran.code == 2 and "is --log's file, and would be written over" in ran.err
    assert not tried and path.read_text()


def test_another_file_is_no_log(onnxdet: Run, tried: list[str], tmp_path: Path) -> None:
    log = tmp_path / "notes.txt"
    log.write_text("remember the milk\n")
    ran = onnxdet("coverage", *files(tmp_path, "exact_1"), "--log", log)
    assert ran.code == 2 and "line 1 is no result of this command" in ran.err
    assert not tried and log.read_text() == "remember the milk\n"


def test_structures_are_listed(onnxdet: Run, tried: list[str], tmp_path: Path) -> None:
    ran = onnxdet("coverage", "--list")
    assert ran.code == 0 and not tried
    assert "retinanet/" in ran.out and "detector RetinaNet, backbone ResNet" in ran.out


def test_a_process_that_dies_or_hangs_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def raising(error: Exception) -> Callable[..., Any]:
        def call(*_: object, **__: object) -> Any:
            raise error

        return call

    for error, seconds in ((ProcessEnded("ended with -9: Killed"), 0.0), (TimeoutError("slow"), 5)):
        monkeypatch.setattr(coverage, "call_apart", raising(error))
        one = coverage.in_a_process(tmp_path / "a.py", 320, 5.0)
        assert (one.outcome, one.reason, one.seconds) == (FAILED, str(error), seconds)


def test_a_second_stage_has_fewer_regions_and_a_deep_backbone_fewer_layers() -> None:
    root = config_root()
    two_stage = root / "faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py"
    overrides = covering_spec(two_stage).overrides
    assert overrides["model.test_cfg.rpn.max_per_img"] == PROPOSALS
    assert overrides["model.test_cfg.rcnn.max_per_img"] == DETECTIONS
    deep = covering_spec(root / "gn/mask_rcnn_r101_fpn_gn-all_2x_coco.py").overrides
    assert deep["model.backbone.depth"] == 50 and "model.backbone.depth" not in overrides
    for other in ("retinanet/retinanet_r50_fpn_1x_coco.py", "rpn/rpn_r50_fpn_1x_coco.py"):
        assert not [key for key in covering_spec(root / other).overrides if "max_per_img" in key]


def test_larger_images_are_tried_where_nothing_can_be_decided(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes: list[int] = []

    def outcome(config: Path, size: int, families: object) -> Covered:
        sizes.append(size)
        return Covered(str(config), UNDECIDED if size < 300 else EXACT)

    monkeypatch.setattr(covering, "_tried", outcome)
    assert cover(tmp_path / "a.py", 160).outcome == EXACT
    assert sizes == [160, 256, 448]
    assert cover(tmp_path / "a.py", 40).outcome == UNDECIDED


@pytest.mark.parametrize(("same", "outcome"), [(9, DIFFERS), (8, UNDECIDED), (0, DIFFERS)])
def test_what_float64_does_not_find_decides_nothing(same: int, outcome: str) -> None:
    wrong = Verdict({"detections": 10}, faults=["detections: 3 of 10 differ"])
    noise = Noise(detections=same)
    found = covering._covered(wrong, "a.py", ((96, 160),), 10, noise)
    assert found.outcome == outcome and found.reason
    assert covering._covered(Verdict({}), "a.py", (), 10, noise).outcome == EXACT


def test_a_detector_that_fails_on_images_so_small_decides_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("smaller than kernel")

    monkeypatch.setattr(calibrating, "_calibrate", fails)
    found = cover(tiny.config, 64)
    assert found.outcome == UNDECIDED and "PyTorch fails on images of " in found.reason


def test_an_image_without_a_detection_decides_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workbench, "results", lambda *_: [[1], [], [1], [1]])
    monkeypatch.setattr(covering, "LARGER", (1.0,))
    found = cover(tiny.config, 64)
    assert found.outcome == UNDECIDED and found.reason.startswith("PyTorch finds nothing in ")
