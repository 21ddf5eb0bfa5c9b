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
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
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
    found: list[Any] = pickle.loads((folder / "r.pkl").read_bytes())
    return found


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
