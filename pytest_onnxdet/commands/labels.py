"""What the labels of a checkpoint's detector are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.notes import note

if TYPE_CHECKING:
    import mmcv
    from torch import nn


def class_names(meta: Mapping[str, Any], detector: nn.Module, cfg: mmcv.Config) -> tuple[str, ...]:
    """The checkpoint's class names, else the data's; said where they are not as many as scores."""
    from pytest_onnxdet.models.names import NamesError, known_names

    configured: tuple[str, ...] = ()
    try:
        configured = known_names({}, cfg)
    except NamesError as error:  # only pictures and messages have them
        if not meta.get("CLASSES"):
            note(f"{error}; until then labels have no names")
            return ()
    names = known_names(meta, cfg) if meta.get("CLASSES") else configured
    model: Any = detector
    heads: Any = getattr(getattr(model, "roi_head", model), "bbox_head", None)
    count = getattr(heads[-1] if hasattr(heads, "__getitem__") else heads, "num_classes", None)
    if names and isinstance(count, int) and len(names) != count:
        whose = "the checkpoint" if meta.get("CLASSES") else "the config's data"
        note(
            f"{whose} names {len(names)} classes and the head's num_classes is {count}: labels "
            "have no names, or wrong ones"
        )
    if names != configured and sorted(names) == sorted(configured):
        note(
            f"the checkpoint's classes are {', '.join(names[:5])}, ... and the config's data has "
            "them in another order: AP with this config would be of exchanged classes"
        )
    return names
