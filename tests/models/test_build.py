import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_onnxdet.models.build import (
    BuildError,
    build_detector,
    config_root,
    load_config,
    load_weights,
)
from pytest_onnxdet.models.mini import MINIS, mini_specs
from pytest_onnxdet.models.registry import ModelRegistry
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.zoo import zoo_specs

REGISTRY = ModelRegistry((*mini_specs(), *zoo_specs()))


def fresh(name: str) -> ModelSpec:
    return replace(REGISTRY.get(name), weights=None)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return build_detector(fresh("retinanet")).state_dict()


@pytest.fixture
def model() -> torch.nn.Module:
    return build_detector(fresh("retinanet"))


@pytest.mark.parametrize("name", REGISTRY.names("mini"))
def test_each_mini_is_mmdets_detector_thinned(name: str) -> None:
    from mmcv import Config

    spec = fresh(name)
    model = build_detector(spec)
    documented = Config.fromfile(str(config_root() / spec.config)).model
    assert type(model).__name__ == documented.type
    assert not model.training
    assert spec.classes == model.CLASSES
    for head in ("bbox_head", "rpn_head", "mask_head"):
        if head in documented:
            assert type(getattr(model, head)).__name__ == documented[head].type
    assert sum(p.numel() for p in model.parameters()) < 1.5e6


@pytest.mark.parametrize("name", REGISTRY.names("mini"))
def test_test_cfg_is_the_documented_one(name: str) -> None:
    spec = fresh(name)
    mini = load_config(spec).model.test_cfg
    documented = load_config(replace(spec, overrides={})).model.test_cfg
    if name in ("detr", "deformable_detr"):
        assert (mini.max_per_img, documented.max_per_img) == (12, 100)  # of 12 queries
        return
    assert mini == documented


@pytest.mark.parametrize("name", REGISTRY.names("full"))
def test_documented_configs_load(name: str) -> None:
    assert "type" in load_config(REGISTRY.get(name, "full")).model


def test_building_twice_does_not_wear_the_overrides_out() -> None:
    assert "_delete_" in MINIS["retinanet"]["overrides"]["model.backbone"]
    build_detector(fresh("retinanet"))
    assert "_delete_" in MINIS["retinanet"]["overrides"]["model.backbone"]


def test_weights_from_each_kind_of_file(
    tmp_path: Path, state: dict[str, torch.Tensor], model: torch.nn.Module
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": OrderedDict(state), "meta": {"epoch": 1}}, tmp_path / "b.pth")
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "c.pth")
    for name in ("a.safetensors", "b.pth", "c.pth"):
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        load_weights(tmp_path / name, model)
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_missing_weights(tmp_path: Path, model: torch.nn.Module) -> None:
    with pytest.raises(BuildError, match=r"gone\.safetensors: no such weights file.*train_mini"):
        load_weights(tmp_path / "gone.safetensors", model)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("keep", [0, 5, 0.5])
def test_truncated_weights(
    tmp_path: Path,
    state: dict[str, torch.Tensor],
    model: torch.nn.Module,
    suffix: str,
    keep: float,
) -> None:
    file = tmp_path / f"half.{suffix}"
    if suffix == "pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(BuildError, match=rf"half\.{suffix}: .*corrupt"):
        load_weights(file, model)


class Forbidden:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_a_checkpoint_with_pickled_code_is_refused_and_not_run(
    tmp_path: Path, model: torch.nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {}, "meta": Forbidden()}, tmp_path / "evil.pth")
    with pytest.raises(BuildError, match=r"evil\.pth: not a plain checkpoint.*state_dict"):
        load_weights(tmp_path / "evil.pth", model)
    assert "never run" not in capfd.readouterr().out


def test_a_checkpoint_without_tensors(tmp_path: Path, model: torch.nn.Module) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BuildError, match=r"list\.pth: holds no state_dict"):
        load_weights(tmp_path / "list.pth", model)


def test_weights_that_do_not_fit(
    tmp_path: Path, state: dict[str, torch.Tensor], model: torch.nn.Module
) -> None:
    changed = dict(state)
    for name in [n for n in state if n.startswith("neck.")]:
        del changed[name]
    changed["bbox_head.retina_cls.weight"] = torch.zeros(7, 48, 3, 3)
    changed["mask_head.extra"] = torch.zeros(1)
    save_file(changed, tmp_path / "other.safetensors")
    with pytest.raises(BuildError) as caught:
        load_weights(tmp_path / "other.safetensors", model)
    text = str(caught.value)
    assert "other.safetensors" in text and "do not fit RetinaNet" in text
    assert re.search(r"\d+ missing \(neck\.[^)]*, \.\.\.\)", text)
    assert "1 unexpected (mask_head.extra)" in text
    assert "1 misshapen (bbox_head.retina_cls.weight (7, 48, 3, 3) for (27, 48, 3, 3))" in text


# mmcv leaves a temporary file object behind when a config does not parse.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("model = (", "does not parse"),
        ("import nothing_of_that_name", "does not parse"),
        ("optimizer = dict(type='SGD')", "not a detector's config"),
        ("model = dict(type='ImageClassifier')\n", "no `data.test.pipeline`"),
        (
            "model = dict(type='ImageClassifier')\ndata = dict(test=dict(pipeline=[]))",
            "not a detector mmdet knows",
        ),
        (
            "model = dict(type='FCOS', colour=1)\ndata = dict(test=dict(pipeline=[]))",
            "FCOS cannot be built",
        ),
    ],
)
def test_a_config_that_is_no_detector(tmp_path: Path, body: str, message: str) -> None:
    file = tmp_path / "config.py"
    file.write_text(body)
    with pytest.raises(BuildError) as caught:
        build_detector(ModelSpec("x", str(file)))
    assert str(file) in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            "backbone=dict(type='ResNet', depth=18, dcn=dict(type='DCNv2'), "
            "stage_with_dcn=(False, True, True, True))",
            "model.backbone (ResNet): AssertionError: Not implemented yet. "
            "(resnet.py: assert dcn is None, 'Not implemented yet.')",
        ),
        (
            "backbone=dict(type='ResNet', depth=19)",
            "model.backbone (ResNet): KeyError: invalid depth 19 for resnet",
        ),
        (
            "neck=dict(num_outs=1)",
            "model.neck (FPN): AssertionError (fpn.py: assert num_outs >= ",
        ),
        (
            "neck=dict(type='FPNN')",
            "model.neck (FPNN): KeyError: FPNN is not in the models registry",
        ),
        (
            "bbox_head=dict(num_classes=0)",
            "model.bbox_head (RetinaHead): ValueError: num_classes=0 is too small",
        ),
        (
            "bbox_head=dict(bbox_coder=dict(foo=2))",
            "model.bbox_head.bbox_coder (DeltaXYWHBBoxCoder): TypeError: ",
        ),
        (
            "bbox_head=dict(anchor_generator=dict(type='Grid'))",
            "model.bbox_head.anchor_generator (Grid): KeyError: Grid is not in the ",
        ),
        (
            "bbox_head=dict(norm_cfg=dict(type='XN'))",
            "model.bbox_head (RetinaHead): KeyError: Unrecognized norm type XN",
        ),
        ("foo=1", "model (RetinaNet): TypeError: RetinaNet.__init__() got an unexpected keyword"),
    ],
)
def test_a_part_that_mmdet_does_not_build(tmp_path: Path, part: str, message: str) -> None:
    """In one line: the file, the part, and what mmdet says of it, or asserts."""
    base = config_root() / "retinanet" / "retinanet_r50_fpn_1x_coco.py"
    file = tmp_path / "config.py"
    file.write_text(f"_base_ = [{str(base)!r}]\nmodel = dict({part})\n")
    with pytest.raises(BuildError) as caught:
        build_detector(ModelSpec("x", str(file)))
    text = str(caught.value)
    assert text.startswith(f"{file}: RetinaNet cannot be built: {message}"), text
    assert text.endswith("change that part of the config") and len(text.splitlines()) == 1


@pytest.mark.parametrize("address", ["s3://bucket/a.pth", "file:///a.pth", "open-mmlab://resnet50"])
def test_weights_at_other_addresses(model: torch.nn.Module, tmp_path: Path, address: str) -> None:
    with pytest.raises(BuildError, match=f"^{address}: only https is fetched"):
        load_weights(address, model, downloads=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_config_that_is_missing() -> None:
    with pytest.raises(BuildError, match=r"nowhere/x\.py: no such config file \(model 'x'\)"):
        build_detector(ModelSpec("x", "nowhere/x.py"))


def test_overrides_that_do_not_fit() -> None:
    spec = replace(fresh("retinanet"), overrides={"data.test.pipeline.9.img_scale": (1, 1)})
    with pytest.raises(BuildError, match="overrides of model 'retinanet'"):
        build_detector(spec)
