"""The check of what a backend built ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_onnxdet.verify.checks import CheckFailed


def check_build(built: Mapping[str, Any], *, case_id: str) -> dict[str, Any]:
    """An engine came of it, and it is not empty.

    Args:
        built: what ``Backend.build`` returned.
        case_id: begins the message.

    Returns:
        seconds, engine_bytes and what else the backend reports.

    Raises:
        CheckFailed: a figure is missing, or the engine has no layer or no byte.
    """
    needed = ("seconds", "engine_bytes")
    empty = [name for name in (*needed, "layers") if not built.get(name, name not in needed)]
    if empty:
        raise CheckFailed(
            f"{case_id}: no engine: {', '.join(empty)} is 0 or not reported\n"
            "look at: the backend's build",
            built,
            "build",
        )
    return dict(built)
