"""Numbers in a config's test pipeline that no image can be prepared with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.numbers import is_number
from pytest_onnxdet.models.checkpoint import BuildError
from pytest_onnxdet.models.pipeline import settings_of_steps


def require_values(pipeline: Iterable[Any], path: Path | str) -> None:
    """Refuses sizes and numbers on which a step of mmdet's fails, or gives no image.

    An export prepares no image, so that it would not be seen there.

    Args:
        pipeline: the steps of the config's test pipeline.
        path: the config's file, for the message.

    Raises:
        BuildError: the message names the step, the key, its value and what to give.
    """
    for step in settings_of_steps(pipeline):
        for key, (fits, form) in _FORMS.get(str(step.get("type")), {}).items():
            value = step.get(key)
            if value is not None and not fits(value):
                raise BuildError(
                    f"{path}: {step['type']} in the test pipeline has {key}={value!r}: give {form}"
                )


def _is_positive(value: Any) -> bool:
    """A number above 0; infinity is one, as mmdet takes it for no limit of a side."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_whole(value: Any) -> bool:
    return _is_positive(value) and value == int(value) if is_number(value) else False


def _is_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_positive, value))


def _are_sizes(value: Any) -> bool:
    """One size, or several."""
    several = isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_size, value))
    return several or _is_size(value)


def _are_factors(value: Any) -> bool:
    numbers = value if isinstance(value, list | tuple) else [value]
    return len(numbers) > 0 and all(_is_positive(one) and is_number(one) for one in numbers)


def _are_numbers(value: Any) -> bool:
    numbers = value if isinstance(value, list | tuple) else [value]
    return all(map(is_number, numbers))


_SIZES = (_are_sizes, "width and height in px, from 1: img_scale=(1333, 800)")
_FLAG = (lambda value: isinstance(value, bool | int), "True or False")
_COLOURS = (
    "color",
    "grayscale",
    "unchanged",
    "color_ignore_orientation",
    "grayscale_ignore_orientation",
)
#: Which values the steps take, and what to say of others.
_FORMS: dict[str, dict[str, tuple[Any, str]]] = {
    "LoadImageFromFile": {
        "color_type": (lambda value: value in _COLOURS, f"one of {', '.join(_COLOURS)}"),
    },
    "MultiScaleFlipAug": {
        "img_scale": _SIZES,
        "scale_factor": (_are_factors, "a number above 0, or several"),
        "flip": _FLAG,
    },
    "Resize": {"img_scale": _SIZES, "keep_ratio": _FLAG},
    "Pad": {
        "size_divisor": (_is_whole, "a whole number from 1, or take the step out"),
        "size": (
            lambda value: _is_size(value) and all(map(_is_whole, value)),
            "height and width in px, from 1",
        ),
    },
    "Normalize": {
        "mean": (_are_numbers, "a number for each channel"),
        "std": (_are_numbers, "a number for each channel"),
        "to_rgb": _FLAG,
    },
}
