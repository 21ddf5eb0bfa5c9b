"""What ``onnxdet test --out`` writes, read by mmdet's own analysis tools."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_models import Ran, Tiny

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")
# analyze_results reads images and truth by the training pipeline.
LOADING = """
_steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
data['train'] = dict(type='CocoDataset', pipeline=_steps)
"""


def tool(name: str) -> Path:
    import mmdet

    path = Path(mmdet.__file__).parent / ".mim/tools/analysis_tools" / name
    assert path.is_file(), "this mmdet lacks its tools: install it from its sources, as in setup"
    return path


@pytest.fixture(scope="module")
def boxes(tiny: Tiny, dynamic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tiny, dynamic, tmp_path_factory.mktemp("boxes") / "r.pkl")


@pytest.fixture(scope="module")
def masks(masked: Tiny, stock_masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(masked, stock_masks, tmp_path_factory.mktemp("masks") / "r.pkl")


def written(model: Tiny, graph: Path, out: Path) -> Path:
    from pytest_onnxdet.cli import main

    assert main(["test", str(model.config), str(graph), *ORT, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run_tool(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs one of mmdet's scripts as a command; returns what it printed."""

    def run(name: str, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", [str(tool(name)), *map(str, words)])
        capfd.readouterr()
        runpy.run_path(str(tool(name)), run_name="__main__")
        return capfd.readouterr().out

    return run


def test_boxes_are_evaluated(run_tool: Callable[..., str], tiny: Tiny, boxes: Path) -> None:
    options = ("--cfg-options", "evaluation.interval=1")
    assert "bbox_mAP" in run_tool("eval_metric.py", tiny.config, boxes, "--eval", "bbox", *options)


def test_masks_are_evaluated(
    run_tool: Callable[..., str], onnxdet: Run, masked: Tiny, stock_masks: Path, masks: Path
) -> None:
    options = ("--cfg-options", "evaluation.interval=1")
    out = run_tool("eval_metric.py", masked.config, masks, "--eval", "bbox", "segm", *options)
    ours = onnxdet("test", masked.config, stock_masks, *ORT, "--eval", "bbox", "segm").out
    assert "bbox_mAP" in out
    line = next(line for line in ours.splitlines() if line.startswith("segm_mAP_copypaste: "))
    assert line.split(": ")[1] in out  # the same figures


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_results_are_painted_best_and_worst(
    run_tool: Callable[..., str],
    request: pytest.FixtureRequest,
    tiny: Tiny,
    masked: Tiny,
    kind: str,
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.py"
    config.write_text((tiny if kind == "boxes" else masked).config.read_text() + LOADING)
    results = request.getfixturevalue(kind)
    run_tool("analyze_results.py", config, results, tmp_path / "show", "--topk", "2")
    painted = {path.parent.name for path in (tmp_path / "show").rglob("*.png")}
    assert painted == {"good", "bad"}


def test_confusion_is_counted(
    run_tool: Callable[..., str], masked: Tiny, masks: Path, tmp_path: Path
) -> None:
    (tmp_path / "confusion").mkdir()
    run_tool("confusion_matrix.py", masked.config, masks, tmp_path / "confusion")
    assert (tmp_path / "confusion" / "confusion_matrix.png").is_file()
