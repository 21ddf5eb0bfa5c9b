"""The numbers of box coders and prior generators, as configs have them: what boxes are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pytest_onnxdet.core.numbers import is_number
from pytest_onnxdet.families.classes import UnsupportedPart, resolve

_CODER = "mmdet.core.bbox.coder.BaseBBoxCoder"
_GENERATORS = ("mmdet.core.anchor.AnchorGenerator", "mmdet.core.anchor.MlvlPointGenerator")
#: Attributes of a coder with a number for each side, and the config's names of them.
_OF_SIDES = {"means": "target_means", "stds": "target_stds", "normalizer": "normalizer"}
#: mmdet multiplies with these when it detects, and divides by them when it trains.
_DIVISORS = ("stds", "normalizer")
_FLAGS = ("clip_border", "add_ctr_clamp")


def require_box_values(detector: Any) -> None:
    """Refuses box coders and prior generators with which no detector can have been trained.

    mmdet takes whatever stands there: a deviation of 0 leaves boxes at their anchors, any text is
    true, and a stride of 0 puts all anchors in one place.

    Args:
        detector: one of mmdet's.

    Raises:
        UnsupportedPart: the message names the key by its path in the config.
    """
    for path, coder in _parts(detector, (_CODER,)):
        for name, key in _OF_SIDES.items():
            if hasattr(coder, name):
                _require_sides(getattr(coder, name), f"{path}.{key}", name in _DIVISORS)
        if not is_number(clamp := getattr(coder, "ctr_clamp", 32)):
            raise UnsupportedPart(f"{path}.ctr_clamp is {clamp!r}: give a number of pixels")
        for name in _FLAGS:
            value = getattr(coder, name, False)
            if not isinstance(value, bool | int):
                raise UnsupportedPart(f"{path}.{name} is {value!r}: give True or False")
    for path, generator in _parts(detector, _GENERATORS):
        _require_priors(generator, path)


def require_levels(generator: Any, maps: int) -> None:
    """Refuses a prior generator for another number of levels than the head has.

    Args:
        generator: mmdet's.
        maps: how many levels of outputs the head has.

    Raises:
        UnsupportedPart: it names the strides.
    """
    strides = [stride[0] if len(set(stride)) == 1 else stride for stride in generator.strides]
    if len(strides) != maps:
        raise UnsupportedPart(
            f"{type(generator).__name__} has {len(strides)} strides ({strides}) for {maps} levels "
            "of the head's outputs, and mmdet asserts that they are as many: correct strides, or "
            "num_outs of the neck"
        )


def _parts(detector: Any, kinds: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """What parts of a detector hold of these classes, with the paths."""
    classes = tuple(resolve(kind) for kind in kinds)
    for name, module in detector.named_modules():
        place = re.sub(r"\.(\d+)", r"[\1]", ".".join(filter(None, ("model", name))))
        for key, value in vars(module).items():
            if isinstance(value, classes):
                yield f"{place}.{key}", value


def _require_sides(value: Any, path: str, divides: bool) -> None:
    numbers = value if isinstance(value, list | tuple) else [value]
    if not all(map(is_number, numbers)) or len(numbers) not in (1, 4):
        raise UnsupportedPart(f"{path} is {value!r}: give four numbers")
    if divides and not all(numbers):
        raise UnsupportedPart(
            f"{path} is {value!r}: mmdet divides by it when it trains, so no detector was trained "
            "with a 0 there: give the numbers that it was trained with"
        )


def _require_priors(generator: Any, path: str) -> None:
    strides = [tuple(stride) for stride in generator.strides]
    if not all(is_number(side) and side > 0 for stride in strides for side in stride):
        raise UnsupportedPart(
            f"{path} has the strides {strides}: give the pixels between two places of a map, "
            "above 0"
        )
    for level, base in enumerate(getattr(generator, "base_anchors", ())):
        sides = base[:, 2:] - base[:, :2]
        if not bool(base.isfinite().all()) or not bool((sides > 0).all()):
            raise UnsupportedPart(
                f"{path} makes anchors without a size (those of level {level}): give scales and "
                "ratios above 0"
            )
