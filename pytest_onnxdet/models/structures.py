"""Which of many configs describe the same structure: the same parts, put together alike.

Configs of one structure differ in widths, depths, schedules and data, and export alike. A structure
is what of a config decides which code runs: the detector, its backbone with the operators built
into it, neck, heads, the parts of an RoI head, and the kinds of suppression.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The heads that a detector has beside its backbone and neck.
HEADS = (
    "rpn_head",
    "bbox_head",
    "mask_head",
    "panoptic_head",
    "semantic_head",
    "segm_head",
    "panoptic_fusion_head",
)
#: The parts of an RoI head.
ROI_PARTS = (
    "bbox_roi_extractor",
    "bbox_head",
    "mask_roi_extractor",
    "mask_head",
    "semantic_head",
    "shared_head",
    "grid_head",
    "mask_iou_head",
    "feat_relay_head",
    "glbctx_head",
    "point_head",
)


#: In a type's place where a part has settings and no type.
UNTYPED = "untyped"
#: Where a part is in the config, and its type.
Parts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Structure:
    """Configs that describe the same parts.

    Attributes:
        parts: places and types, in the order detector, backbone, operators in the backbone, neck,
            heads, RoI parts, kinds of suppression; without what is missing.
        configs: paths of the configs, the shortest name first.
    """

    parts: Parts
    configs: tuple[Path, ...]


def parts_of_config(cfg: Mapping[str, Any]) -> Parts:
    """The types of the parts that decide which code of a detector runs.

    Args:
        cfg: a whole config, with a ``model``.

    Raises:
        KeyError: it describes no detector.
    """
    model = cfg["model"]
    backbone, roi_head = model.get("backbone") or {}, model.get("roi_head") or {}
    test_cfg = model.get("test_cfg") or cfg.get("test_cfg") or {}
    parts = [
        ("detector", str(model["type"])),
        ("backbone", _types(backbone)),
        *_operators(backbone),
        ("neck", _types(model.get("neck"))),
        *((name, _types(model.get(name))) for name in HEADS),
        ("roi_head", _types(roi_head)),
        *((f"roi_head.{name}", _types(roi_head.get(name))) for name in ROI_PARTS),
        *(("nms", kind) for kind in _suppressions(test_cfg)),
    ]
    return tuple((place, kind) for place, kind in parts if kind)


def structures(paths: Iterable[Path]) -> list[Structure]:
    """The structures of config files, in the order in which they come first.

    Files without a model, such as those that others inherit from, are left out.

    Args:
        paths: config files of mmdet's.
    """
    from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

    ensure_torchvision()
    from mmcv import Config

    by_parts: dict[Parts, list[Path]] = {}
    for path in paths:
        # What a config imports may not be installed; its parts have names all the same.
        cfg = Config.fromfile(str(path), import_custom_modules=False)
        if isinstance(cfg.get("model"), Mapping) and "type" in cfg.model:
            by_parts.setdefault(parts_of_config(cfg), []).append(path)
    return [
        Structure(parts, tuple(sorted(configs, key=lambda path: (len(path.name), str(path)))))
        for parts, configs in by_parts.items()
    ]


def documented_configs(root: Path) -> list[Path]:
    """The configs below mmdet's folder of configs, without those that only others inherit."""
    return [
        path for path in sorted(root.rglob("*.py")) if path.relative_to(root).parts[0] != "_base_"
    ]


def _types(part: Any) -> str:
    """The type of a part, or those of a list of parts, each once."""
    if isinstance(part, Mapping):
        return str(part.get("type", UNTYPED)) if part else ""
    if isinstance(part, Sequence) and not isinstance(part, str):
        return "+".join(dict.fromkeys(filter(None, map(_types, part))))
    return ""


def _operators(backbone: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a backbone has in its layers' place: deformable convolutions, plugins."""
    for name in ("dcn", "sac"):
        yield f"backbone.{name}", _types(backbone.get(name))
    for plugin in backbone.get("plugins") or ():
        yield "backbone.plugins", _types(plugin.get("cfg"))


def _suppressions(test_cfg: Any) -> Iterator[str]:
    """The kinds of suppression that a ``test_cfg`` names, at any depth."""
    if not isinstance(test_cfg, Mapping):
        return
    for name, value in test_cfg.items():
        if name == "nms":
            yield _types(value)
        yield from _suppressions(value)
