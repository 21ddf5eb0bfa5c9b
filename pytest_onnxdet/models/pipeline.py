"""A config's test pipeline, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def settings_of_steps(pipeline: Iterable[Any]) -> Iterator[Any]:
    """The settings of each step of a pipeline, those within an augmentation after it.

    A step that is an object already has none, and is left out.
    """
    for step in pipeline:
        if isinstance(step, Mapping):
            yield step
            yield from settings_of_steps(step.get("transforms") or ())
