"""Checkpoints as people have them: loaded as mmdet loads them, or refused with what to do."""

import os
import resource
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_onnxdet.models.build import BuildError, build_detector, load_weights
from pytest_onnxdet.models.registry import builtin_registry

State = dict[str, torch.Tensor]
SPEC = builtin_registry().get("retinanet")


@pytest.fixture(scope="module")
def trained() -> State:
    return build_detector(SPEC).state_dict()


@pytest.fixture
def model() -> torch.nn.Module:
    return build_detector(replace(SPEC, weights=None))


def saved(folder: Path, what: Any, **how: Any) -> Path:
    torch.save(what, folder / "c.pth", **how)
    return folder / "c.pth"


def floats(state: State, kind: torch.dtype) -> State:
    return {n: t.to(kind) if t.is_floating_point() else t for n, t in state.items()}


def refusal(file: Path, model: torch.nn.Module) -> str:
    with pytest.raises(BuildError) as caught:
        load_weights(file, model)
    text = str(caught.value)
    assert str(file) in text and "\n" not in text and "weights_only" not in text.split("rewrite")[0]
    return text


@pytest.mark.parametrize("form", ["whole", "bare", "module", "ema", "parameters", "old"])
def test_forms_of_one_state(
    tmp_path: Path, trained: State, model: torch.nn.Module, form: str
) -> None:
    """mmdet takes the plain names; averaged copies beside them are its hook's, not its model's."""
    copies = {f"ema_{n.replace('.', '_')}": torch.zeros_like(t) for n, t in trained.items()}
    forms: dict[str, Any] = {
        "whole": {"state_dict": trained, "meta": {}},
        "bare": trained,
        "module": {"state_dict": {f"module.{n}": t for n, t in trained.items()}},
        "ema": {"state_dict": {**trained, **copies}},
        "parameters": {n: torch.nn.Parameter(t, False) for n, t in trained.items()},
        "old": trained,
    }
    file = saved(tmp_path, forms[form], _use_new_zipfile_serialization=form != "old")
    load_weights(file, model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained[name]), name


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types_become_float32(
    tmp_path: Path, trained: State, model: torch.nn.Module, kind: torch.dtype
) -> None:
    state = floats(trained, kind)
    load_weights(saved(tmp_path, state), model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype))
        assert tensor.dtype in (torch.float32, torch.int64)


def test_slices_of_a_larger_storage(tmp_path: Path, trained: State, model: torch.nn.Module) -> None:
    views = {n: torch.stack([t, t])[1] for n, t in trained.items()}
    load_weights(saved(tmp_path, views), model)
    assert all(torch.equal(t, trained[n]) for n, t in model.state_dict().items())


def test_saved_from_a_gpu(tmp_path: Path, trained: State, model: torch.nn.Module) -> None:
    """The pickle names the device of each storage; no GPU is here to put it on."""
    file, other = saved(tmp_path, trained), tmp_path / "gpu.pth"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert data.count(b"X\x03\x00\x00\x00cpu") == 1
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            target.writestr(name, data)
    load_weights(other, model)
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}


def test_what_is_not_used_of_a_large_file_is_not_read(
    tmp_path: Path, trained: State, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    load = torch.load

    def noted(*args: Any, **how: Any) -> Any:
        asked.append(how["mmap"])
        return load(*args, **how)

    monkeypatch.setattr(torch, "load", noted)
    load_weights(saved(tmp_path, trained), model)
    load_weights(saved(tmp_path, trained, _use_new_zipfile_serialization=False), model)
    assert asked == [True, False]


def test_a_checkpoint_of_three_gigabytes(
    tmp_path: Path, trained: State, model: torch.nn.Module
) -> None:
    """Sparse, as a disk here need not have them: loaded, and refused, in the memory of weights."""
    file, before = tmp_path / "large.pth", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.serialization.skip_data():
        torch.save({"state_dict": trained, "optimizer": torch.empty(800_000_000)}, file)
    assert file.stat().st_size > 3e9
    load_weights(file, model)
    assert not any(bool(value.any()) for value in model.parameters())
    os.truncate(file, 3_000_000_000)
    assert "its end is missing (3,000,000,000 bytes are there)" in refusal(file, model)
    file.write_bytes(b"")
    os.truncate(file, 3_000_000_000)
    assert "it begins with zeros, as a broken download" in refusal(file, model)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024  # Linux: KiB
    assert grown < 0.5e9


@pytest.mark.parametrize(
    ("name", "key", "head"),
    [
        ("retinanet", "model.bbox_head.num_classes", "bbox_head.retina_cls.weight"),
        ("yolov3", "model.bbox_head.num_classes", "bbox_head.convs_pred.0.weight"),
        ("ssd", "model.bbox_head.num_classes", "bbox_head.cls_convs.0"),
        ("detr", "model.bbox_head.num_classes", "bbox_head.fc_cls.weight"),
        ("faster_rcnn", "model.roi_head.bbox_head.num_classes", "roi_head.bbox_head.fc_cls.weight"),
    ],
)
def test_weights_of_other_classes_name_both_counts_and_the_key(
    tmp_path: Path, name: str, key: str, head: str
) -> None:
    spec = builtin_registry().get(name)
    file = saved(tmp_path, build_detector(spec).state_dict())
    other = replace(spec, weights=None, overrides={**spec.overrides, key: 11})
    text = refusal(file, build_detector(other))
    assert head in text and f"of 3 classes and {key} is 11: set it to 3" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {}, " missing (backbone.conv1.weight"),
        (lambda s: {f"model.{n}": t for n, t in s.items()}, "its names begin with 'model'"),
        (
            lambda s: {n[9:]: t for n, t in s.items() if n.startswith("backbone.")},
            "it holds a backbone alone",
        ),
        (lambda s: {**s, "step": 3}, "a int named 'step' is in it: save"),
        (lambda s: {0: torch.ones(1)}, "a Tensor named 0 is in it"),
        (lambda s: {"model": s}, "named 'model' is in it"),
        (lambda s: [1, 2], "holds no state_dict of tensors, but a list"),
        (
            lambda s: {
                n: t * float("nan") if n.endswith("conv1.weight") else t for n, t in s.items()
            },
            "hold values that are no numbers or no variances (backbone.conv1.weight",
        ),
        (
            lambda s: {n: t - 9 if n.endswith("bn1.running_var") else t for n, t in s.items()},
            "no variances (backbone.bn1.running_var",
        ),
        (
            lambda s: {n: t / 0 if n.endswith("retina_cls.bias") else t for n, t in s.items()},
            "1 tensors hold values that are no numbers or no variances (bbox_head.retina_cls.bias",
        ),
        (
            lambda s: {"state_dict": {**s, "data_preprocessor.mean": torch.ones(3)}},
            "it has data_preprocessor.mean: this is MMDetection 3's",
        ),
        (
            lambda s: {"state_dict": s, "meta": {"mmengine_version": "0.7.1"}},
            "it has meta.mmengine_version: this is MMDetection 3's",
        ),
    ],
)
def test_what_does_not_fit(
    tmp_path: Path, trained: State, model: torch.nn.Module, change: Any, said: str
) -> None:
    assert said in refusal(saved(tmp_path, change(trained)), model)


def test_another_architecture(tmp_path: Path, trained: State) -> None:
    """FCOS renames what an older mmdet saved, and what it renames is of another shape here."""
    other = builtin_registry().get("fcos")
    text = refusal(saved(tmp_path, trained), build_detector(replace(other, weights=None)))
    assert "do not fit FCOS as configured" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty: fetch it again"),
        (b"<!doctype html><title>404</title>", "a web page, not a checkpoint"),
        (b"\n <HTML>", "a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"\x1f\x8b\x08\x00" + b"0" * 99, "compressed with gzip"),
        (b"\x02\0\0\0\0\0\0\0{}" + b" " * 9, "name it .safetensors"),
        (b"\x08\x08\x12onnx" * 9, "no file of torch.save (it begins with b'"),
        (b"\0" * 999, "it begins with zeros, as a broken download"),
        (tarfile.TarInfo("data.pkl").tobuf() + b"\0" * 1024, "a tar archive: unpack it first"),
        (b"PK\x03\x04" + b"0" * 99, "its end is missing (103 bytes are there)"),
    ],
)
def test_what_is_no_checkpoint(
    tmp_path: Path, model: torch.nn.Module, content: bytes, said: str
) -> None:
    file = tmp_path / "c.pth"
    file.write_bytes(content)
    assert said in refusal(file, model)


def test_other_zips_half_a_file_and_a_folder(
    tmp_path: Path, trained: State, model: torch.nn.Module
) -> None:
    file = saved(tmp_path, trained)
    file.write_bytes(file.read_bytes()[:9000])
    assert "its end is missing (9,000 bytes are there)" in refusal(file, model)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/readme.txt", "x")
    assert "a zip file that torch.save did not write (readme.txt)" in refusal(file, model)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/constants.pkl", "x")
    assert "a TorchScript program" in refusal(file, model)
    assert "a folder, not a weights file" in refusal(tmp_path, model)
    assert "no such weights file" in refusal(tmp_path / "nowhere.pth", model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to(torch.complex64) + 5j, "is of type torch.complex64"),
        (lambda t: t.to(torch.int32), "is of type torch.int32"),
        (lambda t: t.to_sparse(), "is of layout torch.sparse_coo"),
        (lambda t: t.to("meta"), "has no values (device meta)"),
    ],
    ids=["complex", "integer", "sparse", "meta"],
)
def test_tensors_that_would_lose_something_are_refused(
    model: torch.nn.Module, trained: State, tmp_path: Path, change: Any, said: str
) -> None:
    name = "bbox_head.retina_cls.weight"
    text = refusal(saved(tmp_path, {**trained, name: change(trained[name])}), model)
    assert f"{name} {said}: save the state_dict as plain" in text
