"""A stand-in for torchvision where it is missing or does not load.

mmcv 1.x imports torchvision at start-up, but uses it only to list the model zoo's download
addresses, which the test path never asks for. Without a torchvision that fits the installed
torch, ``import mmcv`` would fail for nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from types import ModuleType


def ensure_torchvision() -> bool:
    """Make ``import torchvision`` succeed; call before the first ``import mmcv``.

    Returns:
        True where the real torchvision is there, False where the stand-in is. The real one
        is never replaced.
    """
    loaded = sys.modules.get("torchvision")
    if loaded is not None:
        return not getattr(loaded, "__onnxdet_stand_in__", False)
    try:
        importlib.metadata.version("torchvision")
        importlib.import_module("torchvision")
        return True
    except (importlib.metadata.PackageNotFoundError, ImportError, OSError, RuntimeError):
        # RuntimeError, OSError: built against another torch ("operator ... does not exist").
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    root = ModuleType("torchvision")
    # mmcv's version check reads this; it decides how mmcv looks for the zoo, which is empty.
    root.__version__ = "0.0.0"  # type: ignore[attr-defined]
    root.__onnxdet_stand_in__ = True  # type: ignore[attr-defined]
    root.__path__ = []
    models = ModuleType("torchvision.models")
    models.__path__ = []
    root.models = models  # type: ignore[attr-defined]
    sys.modules["torchvision"] = root
    sys.modules["torchvision.models"] = models
    return False
