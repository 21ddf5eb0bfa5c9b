"""Documented detectors without checkpoints, and what their own AP has to be."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.models.structure import GRAINED, is_structure, keeps_size
from pytest_onnxdet.models.zoo import DOCUMENTED, ZOO
from pytest_onnxdet.run.cases import Settings, choose_models
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.documented import check_documented

REGISTRY = builtin_registry()


def test_no_checkpoints_makes_structure_checks() -> None:
    settings = Settings(Path("cache"), profile="full", random_weights=True)
    specs = choose_models(settings, REGISTRY)
    assert len(specs) == 12 and all(map(is_structure, specs))
    assert {spec.dataset for spec in specs if spec.name != "cornernet"} == {GRAINED}
    assert {spec.dataset for spec in specs if spec.name == "cornernet"} == {
        "large_shapes"
    } and not specs[0].expected_ap
    assert not any(Path(spec.weights or "").is_file() for spec in specs)
    assert {spec.tolerance("onnxruntime") for spec in specs} == {Tolerance()}, "noise is measured"
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


@pytest.mark.parametrize("outlier", [0.0, 15.0])
def test_calibrated_logits_do_not_saturate(outlier: float) -> None:
    """A share of the logits is above the level, and none so far that scores would tie at 1."""
    import torch

    from pytest_onnxdet.models.calibrate import REACH, Target, _spread

    layer = torch.nn.Conv1d(1, 1, 1)
    inputs = torch.randn(1, 1, 1000, generator=torch.Generator().manual_seed(0))
    inputs[..., 0] += outlier
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.zero_()
        _spread(Target(layer, std=2.0, share=0.1, level=-3.0), [layer(inputs)[0]])
        logits = layer(inputs)

    assert int((logits > -3.0 - 1e-5).sum()) == 100
    assert logits.max() <= -3.0 + REACH + 1e-4


def test_what_sees_nothing_and_what_is_learnt_by_itself() -> None:
    """Biases that are to be 0, parameters that are drawn, and what is blank below the mean."""
    from pytest_onnxdet.models.calibrate import Calibration, Drawn, Target, calibrate

    class Detector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blank, self.score = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
            self.offsets = torch.nn.Linear(2, 3)
            self.boxes = torch.nn.Parameter(torch.zeros(50, 2))
            with torch.no_grad():
                self.score.weight.fill_(-1.0)
                self.offsets.weight.zero_()

        def extract_feat(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=3)

        def forward(self, img: list[torch.Tensor], **_: object) -> torch.Tensor:
            tokens = self.extract_feat(img[0]).abs() + 1
            self.offsets(tokens)
            return self.score(tokens)

    torch.manual_seed(0)
    detector = Detector().eval()
    calibration = Calibration(
        [[Target(detector.score, 2.0, rising=True), Target(detector.offsets)]],
        unbiased=[detector.blank],
        drawn=[Drawn(detector.boxes, (0.0, 3.0), (1.0, 4.0))],
    )
    images = torch.randn(2, 20, 2, 8)
    calibrate(detector, images, [{}, {}], calibration)
    assert not detector.blank.bias.any() and detector.offsets.weight.any()
    low, high = detector.boxes.amin(dim=0), detector.boxes.amax(dim=0)
    assert 0 <= low[0] < 0.1 and 0.9 < high[0] <= 1 and 3 <= low[1] < 3.1 and 3.9 < high[1] <= 4
    with torch.no_grad():
        scores = detector([images])
        assert float(detector.score(torch.zeros(2))) < scores.mean() - scores.std()
        assert abs(float(scores.std()) - 2.0) < 1e-3


def test_calibrated_objectness_does_not_saturate() -> None:
    import torch

    from pytest_onnxdet.data.batches import collate
    from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
    from pytest_onnxdet.families.registry import builtin_families
    from pytest_onnxdet.models.build import build_detector, load_config
    from pytest_onnxdet.models.calibrate import calibrate

    spec = replace(REGISTRY.get("faster_rcnn"), weights=None)
    torch.manual_seed(0)
    detector = build_detector(spec)
    dataset = load_dataset(builtin_datasets().get("shapes"), load_config(spec), limit=2)
    batch = collate([dataset.sample(i) for i in range(2)])
    images = torch.from_numpy(batch.images)

    calibrate(detector, images, batch.metas, builtin_families().of(detector).calibration(detector))

    with torch.no_grad():
        logits, _ = detector.rpn_head(detector.extract_feat(images))
    highest = max(float(level.max()) for level in logits)
    assert -2.0 < highest <= 4.0 + 1e-4


@pytest.mark.parametrize(
    ("steps", "keeps"),
    [
        (
            [{"type": "Flip", "scale_factor": 1.0, "transforms": [{"type": "Pad"}]}],
            True,
        ),
        (
            [{"type": "Flip", "img_scale": (9, 9), "transforms": [{"type": "Pad"}]}],
            False,
        ),
        ([{"type": "Flip", "scale_factor": [1, 2], "transforms": []}], False),
        ([{"type": "Resize", "img_scale": (9, 9)}], False),
        ([{"type": "Normalize"}], True),
    ],
)
def test_which_pipelines_keep_an_images_size(steps: list[dict[str, object]], keeps: bool) -> None:
    assert keeps_size(steps) == keeps


def test_an_hourglass_starts_from_small_branches_and_others_as_seeded() -> None:
    from mmdet.models.backbones.resnet import BasicBlock

    from pytest_onnxdet.families.registry import builtin_families
    from pytest_onnxdet.models.build import build_detector
    from pytest_onnxdet.models.calibrate import BRANCH, Calibration, calibrate

    for name, wanted in (("cornernet", BRANCH), ("retinanet", None)):
        detector = build_detector(REGISTRY.get(name, "mini"))
        blocks = [module for module in detector.modules() if isinstance(module, BasicBlock)]
        before = [block.norm2.weight.detach().clone() for block in blocks]
        damped = builtin_families().of(detector).calibration(detector).damped
        metas = [{"img_shape": (128, 128, 3)}]
        calibrate(detector, torch.rand(1, 3, 128, 128), metas, Calibration([], damped))
        assert blocks
        for block, seeded in zip(blocks, before, strict=True):
            expected = seeded if wanted is None else torch.full_like(seeded, wanted)
            assert torch.equal(block.norm2.weight, expected)


def test_a_residual_branch_that_mmdet_starts_at_zero_counts() -> None:
    """A fault in it would not show: 16 branches hold most of a ResNet-50's layers."""
    from mmdet.models.backbones.resnet import BasicBlock

    from pytest_onnxdet.models.build import build_detector
    from pytest_onnxdet.models.calibrate import BRANCH, Calibration, calibrate

    detector = build_detector(replace(REGISTRY.get("retinanet", "mini"), weights=None))
    blocks = [module for module in detector.modules() if isinstance(module, BasicBlock)]
    assert blocks and not any(block.norm2.weight.any() for block in blocks)
    metas = [{"img_shape": (128, 128, 3)}]
    calibrate(detector, torch.rand(1, 3, 128, 128), metas, Calibration([]))
    assert all((block.norm2.weight == BRANCH).all() for block in blocks)
    assert all((block.norm1.weight == 1).all() for block in blocks)


def test_a_branch_of_another_kind_of_block_is_as_small() -> None:
    """33 branches as large as their input: PyTorch's float32 is far from float64 then."""
    from mmdet.models import build_backbone

    from pytest_onnxdet.models.calibrate import BRANCH, BRANCHES, Calibration, calibrate

    settings = {"type": "ResNeXt", "depth": 101, "groups": 4, "base_width": 2, "base_channels": 8}
    detector = torch.nn.Module()
    detector.backbone = build_backbone(settings)
    detector.backbone.eval()
    detector.extract_feat = detector.backbone.forward
    norms = [
        block.norm3
        for stage in (1, 2, 3, 4)
        for block in getattr(detector.backbone, f"layer{stage}")
    ]
    assert len(norms) == 33 and all((norm.weight == 1).all() for norm in norms)
    calibrate(detector, torch.rand(1, 3, 64, 64), [{}], Calibration([]))
    for norm in norms:
        torch.testing.assert_close(
            norm.weight, torch.full_like(norm.weight, BRANCH * BRANCHES / 33)
        )


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
def test_deformable_convolutions_look_near_by(kind: str) -> None:
    """With offsets of several cells rounding grew a thousandfold from block to block."""
    from mmdet.models import build_backbone

    from pytest_onnxdet.models.calibrate import Calibration, calibrate

    settings = {"type": "ResNet", "depth": 50, "base_channels": 8}
    dcn = {"type": kind, "deform_groups": 1, "fallback_on_stride": False}
    detector = torch.nn.Module()
    detector.backbone = build_backbone(
        {**settings, "dcn": dcn, "stage_with_dcn": (False, True, True, False)}
    )
    detector.backbone.init_weights()
    detector.backbone.eval()
    detector.extract_feat = detector.backbone.forward
    layer = detector.backbone.layer3[0].conv2.conv_offset
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    images = torch.rand(1, 3, 64, 64)
    calibrate(detector, images, [{}], Calibration([]))
    with torch.no_grad():
        detector.extract_feat(images)
    assert 1e-4 < float(seen[-1].abs().max()) < 0.5


@pytest.mark.parametrize(("name", "share"), [("point_rend", 1.0), ("retinanet", 0.05)])
def test_what_ties_in_random_weights_is_the_familys(name: str, share: float) -> None:
    from types import SimpleNamespace
    from typing import Any

    from pytest_onnxdet.families.registry import builtin_families
    from pytest_onnxdet.models.structure import structure_spec
    from pytest_onnxdet.run.ties import max_tied

    spec = REGISTRY.get(name, "mini")
    reference = SimpleNamespace(
        family=builtin_families().get("point_rend" if name == "point_rend" else "dense")
    )
    bench: Any = SimpleNamespace(reference=lambda spec: reference)
    assert max_tied(bench, structure_spec(spec)) == share
    assert max_tied(bench, spec) == spec.tied_images
