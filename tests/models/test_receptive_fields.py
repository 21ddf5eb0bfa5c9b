"""Dilations by RF-Next's hook, as mmdet's tools set them before they load weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_onnxdet.models.build import BuildError, load_config, make_detector
from pytest_onnxdet.models.mini import mini_specs

SEARCH = {"step": 0, "max_step": 11, "search_interval": 1, "exp_rate": 0.5, "init_alphas": 0.01}
SEARCH |= {"mmin": 1, "mmax": 24, "num_branches": 2, "skip_layer": ["bbox_head", "neck"]}


def config(**settings: Any) -> Any:
    cfg = load_config(next(spec for spec in mini_specs() if spec.name == "retinanet"))
    hook = {"type": "RFSearchHook", "config": {"search": SEARCH}, **settings}
    cfg.custom_hooks = [{"type": "NumClassCheckHook"}, hook]
    return cfg


@pytest.mark.filterwarnings("ignore")
def test_searched_convolutions_have_branches() -> None:
    from mmcv.cnn.rfsearch import Conv2dRFSearchOp

    cfg = config(mode="search", rfstructure_file=None)
    before = json.dumps(cfg.custom_hooks)
    detector = make_detector(cfg, "own.py").eval()
    kinds = [name for name, one in detector.named_modules() if isinstance(one, Conv2dRFSearchOp)]
    assert kinds and all(name.startswith("backbone.") for name in kinds)
    assert json.dumps(cfg.custom_hooks) == before
    with torch.no_grad():
        maps = detector.extract_feat(torch.ones(1, 3, 64, 64))
    assert all(torch.isfinite(one).all() for one in maps)


@pytest.mark.filterwarnings("ignore")
def test_dilations_come_from_the_file(tmp_path: Path) -> None:
    cfg = config(mode="fixed_single_branch", rfstructure_file=str(tmp_path / "found.json"))
    with pytest.raises(BuildError, match=r"custom_hooks\[1\]\.rfstructure_file: .*found\.json"):
        make_detector(cfg, "own.py")
    detector = make_detector(config(mode="search", rfstructure_file=None), "own.py")
    names = [
        name.removesuffix(".op_layer")
        for name, _ in detector.named_modules()
        if name.endswith(".op_layer")
    ]
    structure = {f"module.{name}": [2, 3] for name in names}
    (tmp_path / "found.json").write_text(json.dumps({"structure": structure}))
    detector = make_detector(cfg, "own.py")
    modules = dict(detector.named_modules())
    assert all(modules[name].dilation == (2, 3) for name in names)
    (tmp_path / "found.json").write_text("{}")
    with pytest.raises(BuildError, match=r"custom_hooks\[1\] \(RFSearchHook\): .*structure"):
        make_detector(cfg, "own.py")
