"""Documented detectors without checkpoints, and what their own AP has to be."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_onnxdet.cases import Settings, choose_models
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.structure import PROFILE, is_structure
from pytest_onnxdet.models.zoo import DOCUMENTED, ZOO
from pytest_onnxdet.report.records import STRUCTURE
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.documented import check_documented

REGISTRY = builtin_registry()


def test_the_report_knows_the_profile() -> None:
    assert PROFILE == STRUCTURE


def test_no_checkpoints_makes_structure_checks() -> None:
    settings = Settings(Path("cache"), profile="full", random_weights=True)
    specs = choose_models(settings, REGISTRY)
    assert len(specs) == 12 and all(map(is_structure, specs))
    assert {spec.dataset for spec in specs} == {"shapes"} and not specs[0].expected_ap
    assert not any(Path(spec.weights or "").is_file() for spec in specs)
    with_data = choose_models(replace(settings, data=Path("coco")), REGISTRY)
    assert {spec.dataset for spec in with_data} == {"coco_val2017"}


def test_the_tutorials_table_is_whole() -> None:
    assert set(DOCUMENTED) == set(ZOO)
    for name, (_, _, bbox, segm) in ZOO.items():
        rows = DOCUMENTED[name]
        assert set(rows) == ({"bbox"} if segm is None else {"bbox", "segm"})
        assert abs(rows["bbox"][0] / 100 - bbox) < 0.015


def test_pytorchs_own_ap() -> None:
    spec = REGISTRY.get("mask_rcnn", "full")
    good = {"bbox_mAP_torch": 0.3829, "segm_mAP_torch": 0.3462}
    check_documented(spec, good, case_id="x")
    with pytest.raises(CheckFailed, match=r"segm AP of PyTorch is 0\.3440, documented is 0\.347"):
        check_documented(spec, {**good, "segm_mAP_torch": 0.344}, case_id="x")
    with pytest.raises(CheckFailed, match="bbox AP of PyTorch was not computed"):
        check_documented(spec, {}, case_id="x")
