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


@pytest.mark.parametrize("zipped", [True, False])
def test_a_later_pickle_protocol_is_refused_and_not_called_corrupt(
    tmp_path: Path, zipped: bool
) -> None:
    state = {"state_dict": {"a": torch.ones(2)}}
    file = tmp_path / "p.pth"
    torch.save(state, file, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BuildError) as caught:
        read_checkpoint(file)
    text = str(caught.value)
    assert "not a plain checkpoint: it is pickled with FRAME (protocol 4)" in text
    assert "--trust-checkpoint" in text and "corrupt" not in text
    assert "a" in read_checkpoint(file, trust=True)["state_dict"]


def test_the_remedy_for_pytest_works(tmp_path: Path) -> None:
    file = tmp_path / "r.pth"
    torch.save({"state_dict": {"a": torch.ones(2)}, "meta": Custom()}, file)
    with pytest.raises(BuildError) as caught:
        read_checkpoint(file)
    command = str(caught.value).split("rewrite it once: ")[1]
    exec(command, {"torch": torch, "FILE": file})
    assert torch.equal(read_checkpoint(file)["a"], torch.ones(2))


@pytest.mark.parametrize("content", [b"\x80\x02no", b"\x08\x08\x12onnx" * 99, b""])
def test_what_is_no_checkpoint_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "g.pth").write_bytes(content)
    with pytest.raises(BuildError, match="the checkpoint is corrupt") as caught:
        read_checkpoint(tmp_path / "g.pth")
    assert "--trust-checkpoint" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_half_a_file_is_corrupt(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "h.pth"
    torch.save({"a": torch.ones(1000)}, file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BuildError, match="the checkpoint is corrupt"):
        read_checkpoint(file)


def test_the_allowance_ends_with_the_call(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    torch.save({"a": np.float64(1)}, tmp_path / "c.pth")
    assert read_checkpoint(tmp_path / "c.pth") == {"a": 1.0}
    assert set(torch.serialization.get_safe_globals()) == before


def test_an_object_array_stays_out(tmp_path: Path) -> None:
    torch.save({"a": np.array([Custom()], dtype=object)}, tmp_path / "d.pth")
    with pytest.raises(BuildError, match=r"d\.pth: not a plain checkpoint.*ObjectDType"):
        read_checkpoint(tmp_path / "d.pth")


def test_a_trusted_file_can_still_be_corrupt(tmp_path: Path) -> None:
    (tmp_path / "e.pth").write_bytes(b"\x80\x02no")
    with pytest.raises(BuildError, match="corrupt"):
        read_checkpoint(tmp_path / "e.pth", trust=True)
