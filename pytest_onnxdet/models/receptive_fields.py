"""RF-Next (arXiv:2206.06637): convolutions with searched dilations, set by a hook of the config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_onnxdet.models.checkpoint import BuildError, one_line

HOOK = "RFSearchHook"


def search_receptive_fields(detector: Any, cfg: Any, path: Path | str) -> None:
    """Changes a detector's convolutions in place where a config asks for it, as mmdet's tools do.

    Args:
        detector: as it was built, without weights.
        cfg: the config; it stays as it is.
        path: the config's file, for messages.

    Raises:
        BuildError: the file of dilations is not there, or the hook's settings do not do.
    """
    hooks = cfg.get("custom_hooks") or []
    for number, hook in enumerate(hooks):
        if not isinstance(hook, Mapping) or hook.get("type") != HOOK:
            continue
        place = f"{path}: custom_hooks[{number}]"
        file = hook.get("rfstructure_file")
        if file is not None and "://" not in str(file) and not Path(file).is_file():
            raise BuildError(
                f"{place}.rfstructure_file: {file} is not there, looked for in {Path.cwd()}: give "
                "the file of dilations that the search wrote"
            )
        from mmdet.utils import rfnext_init_model

        settings = {**copy.deepcopy(dict(hook)), "verbose": False}
        try:
            rfnext_init_model(detector, _Hooks(settings))
        except Exception as error:
            raise BuildError(f"{place} ({HOOK}): {one_line(error)}: correct it") from error
        return


class _Hooks(dict[str, Any]):
    """A config of one hook, as mmdet's function reads it."""

    def __init__(self, hook: dict[str, Any]) -> None:
        super().__init__(custom_hooks=[hook])
        self.custom_hooks = self["custom_hooks"]
