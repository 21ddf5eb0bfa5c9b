"""The names and the number of a detector's classes, as its config says them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_onnxdet.models.torchvision_stub import ensure_torchvision


def class_names(cfg: Any) -> tuple[str, ...]:
    """Class names of a config's test data in label order; () where it does not name them.

    Args:
        cfg: a whole config; ``data.test.classes`` is a list, a name, or a file of a name a line, as
            mmdet reads it; without it the data set's class names them.
    """
    ensure_torchvision()
    from mmdet.datasets import DATASETS, CustomDataset

    test = cfg.data.test
    if test.get("classes") is not None:
        named = CustomDataset.get_classes(test.classes)
    else:
        named = getattr(DATASETS.get(test.get("type", "")), "CLASSES", None)
    return tuple(named) if isinstance(named, list | tuple) else ()


def known_names(meta: Mapping[str, Any], cfg: Any) -> tuple[str, ...]:
    """The class names that a checkpoint's ``meta`` says, else :func:`class_names`."""
    named = meta.get("CLASSES")
    return (named,) if isinstance(named, str) else tuple(named or class_names(cfg))


def class_count(model: Mapping[str, Any]) -> int | None:
    """How many classes a detector's heads tell apart; None where they do not say."""
    heads = [{name: part for name, part in model.items() if str(name).endswith("head")}]
    counts = (part.get("num_classes") for part in _parts(heads))
    return next((count for count in counts if isinstance(count, int)), None)


def numbered(count: int) -> tuple[str, ...]:
    """Names for classes that have none: ``class_0``, ``class_1``, ..."""
    return tuple(f"class_{number}" for number in range(count))


def _parts(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from _parts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _parts(value)
