"""``onnxdet test CONFIG net.engine --backend tensorrt``, on a stand-in for the library."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import WORDLESS, Fake, engine

from pytest_onnxdet.cli import main
from pytest_onnxdet.data.datasets import SHAPES

IMAGES = 3
RANGE = ((1, 3, 32, 32), (1, 3, 160, 160), (2, 3, 320, 320))


@pytest.fixture
def arguments(fake: Fake, tmp_path: Path) -> list[str]:
    """The command's words but for the engine, on the first drawn scenes."""
    fake.outputs = ("dets", "labels")
    document = json.loads((SHAPES / "annotations.json").read_text())
    document["images"] = document["images"][:IMAGES]
    chosen = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in chosen]
    few = tmp_path / "few.json"
    few.write_text(json.dumps(document))
    return [
        *("mini:retinanet", "--backend", "tensorrt", "--out", str(tmp_path / "r.pkl")),
        *("--cfg-options", f"data.test.ann_file={few}"),
    ]


def run(arguments: list[str], path: Path, data: bytes, *more: str) -> int:
    path.write_bytes(data)
    config, *options = arguments
    return main(["test", config, str(path), *options, *more])


def results(folder: Path) -> list[Any]:
    results: list[Any] = pickle.loads((folder / "r.pkl").read_bytes())
    return results


def test_an_engine_is_run_as_it_is(
    fake: Fake, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = run(
        arguments, tmp_path / "net.engine", engine(1, RANGE, ("input",)), "--batch-size", "2"
    )

    assert code == 0, capfd.readouterr().err
    assert len(results(tmp_path)) == IMAGES
    # The stand-in's box in every image; nothing was parsed or built.
    assert all(sum(map(len, image)) == 1 for image in results(tmp_path))
    assert fake.configs == []


def test_an_engines_fixed_shape_decides_batch_and_size(
    fake: Fake, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fixed = engine(1, None, shape=(2, 3, 160, 160))
    assert run(arguments, tmp_path / "net.plan", fixed) == 0, capfd.readouterr().err
    assert len(results(tmp_path)) == IMAGES

    assert run(arguments, tmp_path / "net.plan", fixed, "--batch-size", "3") == 2
    assert "takes batches of 2" in capfd.readouterr().err


def test_a_file_that_is_no_engine_is_told(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, tmp_path / "net.engine", WORDLESS) == 2
    assert "net.engine: this engine does not load" in capfd.readouterr().err


def test_the_configs_batch_size_is_no_larger_than_an_engine_takes(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    two = engine(1, RANGE, ("input",))
    more = "data.test.samples_per_gpu=3"
    assert run([*arguments, more], tmp_path / "net.engine", two) == 0, capfd.readouterr().err
    assert len(results(tmp_path)) == IMAGES

    assert run(arguments, tmp_path / "net.engine", two, "--batch-size", "3") == 2
    assert "outside of the optimization profile" in capfd.readouterr().err


def detector_graph(shape: list[Any]) -> bytes:
    """What the command reads of a graph; the stand-in parses nothing."""
    from onnx import helper

    made = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["dets"])],
        "detector",
        [
            helper.make_tensor_value_info("input", 1, shape),
            helper.make_tensor_value_info("image_shape", 7, [shape[0], 2]),
        ],
        [helper.make_tensor_value_info("dets", 1, None)],
    )
    data: bytes = helper.make_model(made).SerializeToString()
    return data


@pytest.mark.parametrize(
    ("words", "batch"),
    [((), 1), (("--batch-size", "2"), 2), (("--cfg-options", "data.test.samples_per_gpu=3"), 3)],
)
def test_a_dynamic_graphs_engine_is_built_once_for_what_it_will_be_given(
    fake: Fake,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    batch: int,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Larger than the shape that is built for where nobody knows better.
    large = ("--cfg-options", "data.test.pipeline.1.img_scale=(1600,1600)")
    graph = detector_graph(["n", 3, "h", "w"])
    assert run(arguments, tmp_path / "net.onnx", graph, *large, *words) == 0, capfd.readouterr().err
    assert len(results(tmp_path)) == IMAGES
    (built,) = fake.profiles
    assert built["input"][2] == (batch, 3, 1600, 1600)


def test_a_graph_of_another_batch_is_told_before_an_engine_is_built(
    fake: Fake, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = detector_graph([2, 3, 160, 160])
    assert run(arguments, tmp_path / "net.onnx", graph, "--batch-size", "3") == 2
    assert "takes batches of 2" in capfd.readouterr().err and fake.configs == []
