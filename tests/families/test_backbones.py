"""Backbones and necks, traced at one size, at other sizes and batches: as PyTorch, within rounding.

Tiny ones with random weights. ``MULTIPLES`` says what PyTorch itself asks of a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import exported, run
from torch import Tensor, nn

from pytest_onnxdet.models.cpu_operators import give_cpu_code

BN = {"type": "BN", "requires_grad": True}
TWO = {"num_stages": 2, "strides": (1, 2), "dilations": (1, 1), "out_indices": (0, 1)}
RESNET = {"depth": 50, "base_channels": 8, **TWO}
PVT = {"embed_dims": 8, "num_layers": (1,) * 4, "num_heads": (1, 2, 2, 2), "mlp_ratios": (2,) * 4}
PVT |= {"sr_ratios": (8, 4, 2, 1)}


def plugin(kind: str, position: str = "after_conv2", **settings: Any) -> dict[str, Any]:
    plugin = {"cfg": {"type": kind, **settings}, "stages": (False, True), "position": position}
    return {"type": "ResNet", **RESNET, "base_channels": 16, "plugins": [plugin]}


def attention(kind: str) -> dict[str, Any]:
    settings = {"spatial_range": -1, "num_heads": 4, "attention_type": kind, "kv_stride": 2}
    return plugin("GeneralizedAttention", **settings)


def branches(count: int) -> dict[str, Any]:
    return {
        "num_modules": 1,
        "num_branches": count,
        "block": "BASIC" if count > 1 else "BOTTLENECK",
        "num_blocks": (1,) * count,
        "num_channels": (4, 8, 16, 32)[:count],
    }


TRIDENT = {
    "type": "TridentResNet",
    **RESNET,
    "num_stages": 3,
    "strides": (1, 2, 2),
    "dilations": (1, 1, 1),
    "out_indices": (2,),
    "num_branch": 3,
    "trident_dilations": (1, 2, 3),
}
BACKBONES: dict[str, dict[str, Any]] = {
    "swin": {
        "type": "SwinTransformer",
        "embed_dims": 8,
        "depths": (2, 2),
        "num_heads": (1, 2),
        "window_size": 4,
        "strides": (4, 2),
        "out_indices": (0, 1),
    },
    "swin_with_positions": {
        "type": "SwinTransformer",
        "pretrain_img_size": 64,
        "embed_dims": 8,
        "depths": (2, 2),
        "num_heads": (1, 2),
        "window_size": 7,
        "strides": (4, 2),
        "out_indices": (0, 1),
        "use_abs_pos_embed": True,
    },
    "pvt": {"type": "PyramidVisionTransformer", "pretrain_img_size": 64, **PVT},
    "pvt_v2": {"type": "PyramidVisionTransformerV2", **PVT},
    "hrnet": {"type": "HRNet", "extra": {f"stage{i}": branches(i) for i in (1, 2, 3, 4)}},
    "res2net": {"type": "Res2Net", "depth": 50, "scales": 4, "base_width": 26, **TWO},
    "resnest": {
        "type": "ResNeSt",
        **RESNET,
        "stem_channels": 8,
        "radix": 2,
        "reduction_factor": 4,
        "avg_down_stride": True,
    },
    "resnext": {"type": "ResNeXt", "depth": 50, "groups": 4, "base_width": 4, **TWO},
    "resnet_v1d": {"type": "ResNetV1d", **RESNET, "stem_channels": 8},
    "regnet": {
        "type": "RegNet",
        "arch": {"w0": 8, "wa": 6.0, "wm": 2.0, "group_w": 8, "depth": 12, "bot_mul": 1.0},
    },
    "efficientnet": {"type": "EfficientNet", "arch": "b0", "out_indices": (3, 4)},
    "mobilenet": {"type": "MobileNetV2", "widen_factor": 0.25, "out_indices": (2, 4)},
    "context_block": plugin("ContextBlock", "after_conv3", ratio=1 / 4),
    "attention_0010": attention("0010"),
    "attention_1111": attention("1111"),
    "non_local": plugin("NonLocal2d"),
    "switchable_atrous": {
        "type": "DetectoRS_ResNet",
        **RESNET,
        "conv_cfg": {"type": "ConvAWS"},
        "sac": {"type": "SAC", "use_deform": True},
        "stage_with_sac": (False, True),
    },
    "trident": {**TRIDENT, "test_branch_idx": 1},
    "trident_of_all_branches": {**TRIDENT, "test_branch_idx": -1},
    "weight_standardised": {
        "type": "ResNet",
        **RESNET,
        "depth": 18,
        "conv_cfg": {"type": "ConvWS"},
        "norm_cfg": {"type": "GN", "num_groups": 4},
    },
    "synchronised_norm": {"type": "ResNet", **RESNET, "norm_cfg": {"type": "SyncBN"}},
    "darknet": {"type": "CSPDarknet", "deepen_factor": 0.33, "widen_factor": 0.125},
    "dcn_in_all_stages": {
        "type": "ResNet",
        **RESNET,
        "dcn": {"type": "DCNv2", "deform_groups": 2, "fallback_on_stride": False},
        "stage_with_dcn": (True, True),
    },
}


def pyramid(kind: str, levels: int = 4, channels: int = 8, **settings: Any) -> dict[str, Any]:
    return {"type": kind, "in_channels": [channels] * levels, "out_channels": channels, **settings}


def transition(kind: str, size: int, **settings: Any) -> dict[str, Any]:
    base = {"type": kind, "kernel_size": size, "norm_cfg": BN, "inplace": False}
    return {**base, "order": ("act", "conv", "norm"), **settings}


NECKS: dict[str, dict[str, Any]] = {
    "pafpn": pyramid("PAFPN", num_outs=5),
    "nas_fpn": pyramid("NASFPN", num_outs=5, stack_times=2, start_level=1, norm_cfg=BN),
    "fpg": pyramid(
        "FPG",
        inter_channels=8,
        num_outs=5,
        stack_times=2,
        paths=["bu"] * 2,
        same_down_trans=None,
        same_up_trans=transition("conv", 3, stride=2, padding=1),
        across_lateral_trans=transition("conv", 1),
        across_down_trans=transition("interpolation_conv", 3, mode="nearest"),
        across_up_trans=None,
        across_skip_trans=transition("conv", 1),
        output_trans={"type": "last_conv", "kernel_size": 3, "order": ("act", "conv", "norm")},
        norm_cfg=BN,
        skip_inds=[(0, 1), (0, 1), (0, 1), (0,), ()],
    ),
    "nas_fcos": pyramid(
        "NASFCOS_FPN",
        start_level=1,
        num_outs=5,
        add_extra_convs=True,
        norm_cfg={"type": "BN"},
        conv_cfg={"type": "DCNv2", "deform_groups": 2},
    ),
    "bfp": {"type": "BFP", "in_channels": 8, "num_levels": 4, "refine_type": "conv"},
    "bfp_non_local": {
        "type": "BFP",
        "in_channels": 8,
        "num_levels": 4,
        "refine_level": 1,
        "refine_type": "non_local",
    },
    "hrfpn": pyramid("HRFPN"),
    "dyhead": {"type": "DyHead", "in_channels": 16, "out_channels": 16, "num_blocks": 1},
    "carafe": pyramid(
        "FPN_CARAFE",
        num_outs=5,
        order=("conv", "norm", "act"),
        upsample_cfg={
            "type": "carafe",
            "up_kernel": 5,
            "up_group": 1,
            "encoder_kernel": 3,
            "encoder_dilation": 1,
            "compressed_channels": 4,
        },
    ),
    "channel_mapper": pyramid("ChannelMapper", num_outs=5, norm_cfg=BN),
    "dilated_encoder": {
        "type": "DilatedEncoder",
        "in_channels": 8,
        "out_channels": 8,
        "block_mid_channels": 4,
        "num_residual_blocks": 2,
        "block_dilations": [2, 4],
    },
    "centernet": {
        "type": "CTResNetNeck",
        "in_channel": 8,
        "num_deconv_filters": (8, 8),
        "num_deconv_kernels": (4, 4),
    },
    "yolox_pafpn": pyramid("YOLOXPAFPN", levels=3, num_csp_blocks=1),
}
#: What sides have to be multiples of; not named: any size.
MULTIPLES = {"hrnet": 32, "darknet": 32, "fpg": 128, "hrfpn": 64, "yolox_pafpn": 32, "nas_fpn": 128}


class Features(nn.Module):
    """A pyramid of an image, for a neck alone."""

    def __init__(self, neck: nn.Module, levels: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=4, padding=1)
        self.neck, self.levels = neck, levels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = [x]
        while len(maps) < self.levels:
            x = nn.functional.max_pool2d(x, 3, 2, 1)
            maps.append(x * len(maps))
        return tuple(self.neck(tuple(maps)))


class Chain(nn.Module):
    """A backbone, and perhaps a neck that it is made for."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Any) -> tuple[Tensor, ...]:
        for part in self.parts:
            x = part(x)
        return tuple(x)


def randomised(module: nn.Module) -> nn.Module:
    """In eval mode, with weights and statistics that leave nothing at 0 or 1.

    Small where they move samples or weigh branches: what explodes is noise.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=generator)

    for name, value in module.named_parameters():
        if any(part in name for part in ("offset", "switch", "context")):
            value.data = 0.01 * drawn(value)
        elif not torch.isfinite(value).all() or name.endswith(("weight_diff", "bias")):
            value.data = 0.1 * drawn(value)
        elif value.dim() == 1 or not value.abs().max():
            value.data = 0.7 * value + 0.05 * drawn(value)
    for name, value in module.named_buffers():
        if name.endswith("running_mean"):
            value.data = 0.1 * drawn(value)
        elif name.endswith("weight_gamma"):
            value.data = 0.2 * value
    return module.eval()


def built(name: str) -> nn.Module:
    from mmdet.models import build_backbone, build_neck

    from pytest_onnxdet.models.build import initialise

    torch.manual_seed(0)
    if name in BACKBONES:
        part = build_backbone(dict(BACKBONES[name]))
        initialise(part)
        return randomised(Chain(part))
    settings = NECKS[name]
    part = build_neck(dict(settings))
    initialise(part)
    give_cpu_code(part)
    wanted = settings.get("in_channels", settings.get("in_channel"))
    levels = len(wanted) if isinstance(wanted, list) else settings.get("num_levels", 3)
    if name in ("dilated_encoder", "centernet"):
        levels = 1
    return randomised(Features(part, levels, wanted[0] if isinstance(wanted, list) else wanted))


def sizes(name: str) -> Iterator[tuple[int, int, int]]:
    """Batches and sizes to run: none is the traced one, and sides differ."""
    step = MULTIPLES.get(name, 1)
    for n, height, width in ((2, 75, 117), (1, 160, 133)):
        yield n, -(-height // step) * step, (-(-width // step) + (step == 128)) * step


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*BACKBONES, *NECKS])
def test_a_traced_one_is_right_at_other_sizes(name: str, tmp_path: Path) -> None:
    module = built(name)
    side = 256 if name in ("nas_fpn", "fpg") else 128
    free = {0: {0: "n", 2: "h", 3: "w"}}
    with torch.no_grad():
        session = exported(module, (torch.rand(1, 3, side, side),), tmp_path, free)
        for n, height, width in sizes(name):
            generator = torch.Generator().manual_seed(height)
            x = torch.randn(n, 3, height, width, generator=generator)
            expected, outputs = module(x), run(session, x)
            assert len(expected) == len(outputs)
            for level, (own, wanted) in enumerate(zip(outputs, expected, strict=True)):
                allowed = 2e-5 * float(wanted.abs().max())
                assert np.isfinite(own).all() and own.std() > 0, (name, level)
                np.testing.assert_allclose(own, wanted.numpy(), rtol=0, atol=allowed)


@pytest.mark.filterwarnings("ignore")
def test_searched_dilations(tmp_path: Path) -> None:
    from mmcv.cnn import RFSearchHook
    from mmdet.models import build_backbone

    search = {"exp_rate": 0.5, "init_alphas": 0.01, "mmin": 1, "mmax": 24, "num_branches": 2}
    module = Chain(build_backbone({"type": "ResNet", **RESNET, "depth": 18}))
    RFSearchHook("search", {"search": {**search, "skip_layer": None}}, verbose=False).init_model(
        module
    )
    module = randomised(module)
    with torch.no_grad():
        session = exported(
            module, (torch.rand(1, 3, 64, 64),), tmp_path, {0: {0: "n", 2: "h", 3: "w"}}
        )
        x = torch.randn(2, 3, 75, 117, generator=torch.Generator().manual_seed(0))
        for own, wanted in zip(run(session, x), module(x), strict=True):
            np.testing.assert_allclose(own, wanted.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_recursive_pyramid(tmp_path: Path) -> None:
    from mmdet.models import build_backbone, build_neck

    from pytest_onnxdet.models.build import initialise

    shared = {"type": "DetectoRS_ResNet", "depth": 50, "base_channels": 4}
    torch.manual_seed(0)
    backbone = build_backbone({**shared, "output_img": True})
    neck = build_neck(
        {
            "type": "RFP",
            "rfp_steps": 2,
            "aspp_out_channels": 2,
            "aspp_dilations": (1, 3, 6, 1),
            "rfp_backbone": {**shared, "rfp_inplanes": 8},
            "in_channels": [16, 32, 64, 128],
            "out_channels": 8,
            "num_outs": 5,
        }
    )
    initialise(backbone)
    initialise(neck)
    module = randomised(Chain(backbone, neck))
    with torch.no_grad():
        session = exported(
            module, (torch.rand(1, 3, 128, 128),), tmp_path, {0: {0: "n", 2: "h", 3: "w"}}
        )
        x = torch.randn(2, 3, 75, 117, generator=torch.Generator().manual_seed(0))
        for own, wanted in zip(run(session, x), module(x), strict=True):
            allowed = 2e-5 * float(wanted.abs().max())
            np.testing.assert_allclose(own, wanted.numpy(), rtol=0, atol=allowed)
