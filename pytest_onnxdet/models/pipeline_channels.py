"""Whether a config's test pipeline normalises as many channels as its detector takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytest_onnxdet.models.channels import input_channels
from pytest_onnxdet.models.checkpoint import BuildError
from pytest_onnxdet.models.pipeline import settings_of_steps

VALUES = ("mean", "std")


def require_channels(detector: Any, pipeline: Iterable[Any], path: Path | str) -> None:
    """Refuses a pipeline whose means or deviations are of another number of channels.

    OpenCV takes a list of another length for a colour and fills it up with zeros, so that images
    are normalised wrongly without a word.

    Args:
        detector: one of mmdet's.
        pipeline: the steps of the config's test pipeline.
        path: the config's file, for the message.

    Raises:
        BuildError: the message names both numbers.
    """
    for step in settings_of_steps(pipeline):
        if step.get("type") != "Normalize":
            continue
        for name in VALUES:
            values = step.get(name)
            if not isinstance(values, list | tuple):
                continue
            channels = input_channels(detector)
            if len(values) != channels:
                raise BuildError(
                    f"{path}: Normalize in the test pipeline has {len(values)} value(s) as {name} "
                    f"and the detector takes images of {channels} channel(s): make them as many "
                    "(in_channels of the backbone says how many it takes)"
                )


def require_deviations(pipeline: Iterable[Any], path: Path | str) -> None:
    """Refuses a standard deviation of 0, by which no image can be divided.

    Raises:
        BuildError: there is one.
    """
    for step in settings_of_steps(pipeline):
        values = step.get("std") if step.get("type") == "Normalize" else None
        if isinstance(values, list | tuple) and any(value == 0 for value in values):
            raise BuildError(
                f"{path}: Normalize in the test pipeline divides by a std of 0 ({list(values)}): "
                "give the deviations that the model was trained with"
            )
