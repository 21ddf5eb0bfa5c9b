"""What an mmdet 2.x checkpoint may hold, and what is never unpickled."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pytest_onnxdet.models.build import BuildError, build_detector, load_weights
from pytest_onnxdet.models.checkpoint import read_checkpoint
from pytest_onnxdet.models.registry import builtin_registry


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_detector(replace(builtin_registry().get("retinanet"), weights=None))


def documented_form(state: dict[str, torch.Tensor]) -> dict[str, object]:
    """A checkpoint as mmcv 1.x writes it, EMA copies and numpy leavings included."""
    ema = {f"ema_{name.replace('.', '_')}": value for name, value in list(state.items())[:3]}
    return {
        "meta": {
            "mmdet_version": "2.28.2",
            "CLASSES": ("disc", "box", "wedge"),
            "PALETTE": [(220, 20, 60)],
            "epoch": 12,
            "config": "model = dict()",
            "hook_msgs": {"best_score": np.float64(0.365), "best_epoch": np.int64(12)},
            "random": np.arange(4, dtype=np.uint32),
        },
        "state_dict": OrderedDict([*state.items(), *ema.items()]),
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float32(0.01)}]},
    }


def test_a_documented_checkpoint_loads(tmp_path: Path, model: torch.nn.Module) -> None:
    torch.save(documented_form(model.state_dict()), tmp_path / "a.pth")
    meta = load_weights(tmp_path / "a.pth", model)
    assert meta["CLASSES"] == ("disc", "box", "wedge")
    assert meta["hook_msgs"]["best_score"] == 0.365
    assert list(meta["random"]) == [0, 1, 2, 3]


def test_the_old_file_format_loads_as_well(tmp_path: Path, model: torch.nn.Module) -> None:
    file = tmp_path / "old.pth"
    torch.save(documented_form(model.state_dict()), file, _use_new_zipfile_serialization=False)
    assert load_weights(file, model)["epoch"] == 12


class Custom:
    def __init__(self) -> None:
        self.value = 7


def test_more_is_refused_by_name_and_can_be_trusted(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "meta": {"hook": Custom()}}, tmp_path / "b.pth")
    with pytest.raises(BuildError) as caught:
        read_checkpoint(tmp_path / "b.pth")
    assert "b.pth" in str(caught.value) and "Custom" in str(caught.value)
    assert "--trust-checkpoint" in str(caught.value)
    assert read_checkpoint(tmp_path / "b.pth", trust=True)["meta"]["hook"].value == 7


def test_the_allowance_ends_with_the_call(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    torch.save({"a": np.float64(1)}, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth") == {"a": 1.0}
    assert set(torch.serialization.get_safe_globals()) == before


def test_an_object_array_stays_out(tmp_path: Path) -> None:
    torch.save({"a": np.array([Custom()], dtype=object)}, tmp_path / "d.pth")
    with pytest.raises(BuildError, match=r"d\.pth"):
        read_checkpoint(tmp_path / "d.pth")


def test_a_trusted_file_can_still_be_corrupt(tmp_path: Path) -> None:
    (tmp_path / "e.pth").write_bytes(b"\x80\x02no")
    with pytest.raises(BuildError, match="corrupt"):
        read_checkpoint(tmp_path / "e.pth", trust=True)
