"""What to do about test data that mmdet does not open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_onnxdet.models.unbuildable import quoted, unwrapped

_MAX = 200  # letters of a file's name or of what was raised


def why_unopened(test: Mapping[str, Any], error: BaseException, where: Path | None = None) -> str:
    """What building a data set raised, quoted, and the remedy that fits.

    Args:
        test: the config's ``data.test``.
        error: what was raised. mmcv puts each class's name before what a class inside it raised.
        where: what to name; None: the annotation file.
    """
    names, inner = unwrapped(error)
    said = quoted(inner, _MAX)
    step = names[1] if len(names) > 1 else None
    place = f"{str(where or test.get('ann_file'))[:_MAX]}: the test data cannot be opened ({said})"
    return f"{place}: {_remedy(test, inner, step)}"


def _remedy(test: Mapping[str, Any], error: BaseException, step: str | None) -> str:
    kind, said = test.get("type"), str(error)
    if "is not in the dataset registry" in said:
        return "correct data.test.type, or name the module that has it in custom_imports"
    if step is not None or "is not in the pipeline registry" in said:
        return f"correct data.test.pipeline{f', its {step}' if step else ''}"
    if isinstance(error, ImportError) or "is not installed" in said:
        return f"install what {kind} needs"
    if isinstance(error, SyntaxError):
        return "correct the annotations"
    if isinstance(error, TypeError) and "argument" in said:
        return f"correct data.test: {kind} takes other keys"
    file = getattr(error, "filename", None)
    if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError) or (
        isinstance(error, OSError)
        and str(test.get("ann_file")) in str(file)  # e.g. too long a name
    ):
        return (
            "set data.test.ann_file and data.test.img_prefix in the config, or with --cfg-options"
        )
    return f"correct data.test: its type, {kind}, does not take what its other keys say"
