"""What the shipped weights say of themselves, and that they say it of the right model."""

from pathlib import Path

import pytest

from pytest_onnxdet.models.build import build_detector
from pytest_onnxdet.models.mini import CLASSES, WEIGHTS, mini_specs, read_header

SHIPPED = [spec for spec in mini_specs() if Path(spec.weights or "").is_file()]
MIN_AP = {"detr": 0.40, "deformable_detr": 0.40}


@pytest.mark.parametrize("spec", SHIPPED, ids=lambda spec: spec.name)
def test_weights_fit_and_reach_their_bar(spec) -> None:
    header = read_header(Path(spec.weights))
    assert header["classes"] == ",".join(CLASSES)
    assert header["config"] == spec.config
    assert header["command"].startswith(f"python tools/train_mini.py {spec.name} ")
    # SOLO has no boxes.
    kinds = {"bbox", "segm"} if spec.masks else {"bbox"}
    assert set(spec.expected_ap) == kinds - ({"bbox"} if spec.name == "solov2" else set())
    assert spec.expected_ap.get("bbox", 1.0) >= MIN_AP.get(spec.name, 0.50)
    assert spec.expected_ap.get("segm", 1.0) >= 0.45
    build_detector(spec)


def test_all_weights_together_stay_small() -> None:
    assert sum(f.stat().st_size for f in WEIGHTS.glob("*.safetensors")) < 48e6


def test_a_broken_header_is_no_metadata(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{"):
        (tmp_path / "x").write_bytes(content)
        assert read_header(tmp_path / "x") == {}
