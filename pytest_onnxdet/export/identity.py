"""What decides an exported graph, by name: a change of any of it is another graph."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.store import file_digest, weights_digest

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.export.options import ExportOptions
    from pytest_onnxdet.models.spec import ModelSpec


def identity(
    spec: ModelSpec, options: ExportOptions, detector: nn.Module | None = None
) -> dict[str, Any]:
    """Everything that decides the graph, by name: what the store hashes.

    Args:
        spec: which detector.
        options: which graph of it.
        detector: the spec's detector, if it is built: what it holds decides, not where from.
    """
    from importlib.metadata import version

    from pytest_onnxdet.models.build import load_config

    asked = asdict(options)
    weights = spec.weights
    if detector is not None:
        weights = weights_digest(detector)
    elif weights is not None and Path(weights).is_file():
        weights = file_digest(Path(weights))
    config = load_config(spec)
    return {
        "model": spec.name,
        "config": config.model.to_dict(),
        # CornerNet's canvas is the pipeline's, and its border is part of the graph.
        "pipeline": list(config.data.test.pipeline),
        "weights": weights,
        "options": asked,
        "versions": {name: version(name) for name in ("torch", "mmdet", "mmcv-full", "onnx")},
        "code": code_digest(),
    }


def code_digest() -> str:
    """A hash of this package's source that decides what a graph computes."""
    root = Path(__file__).parent.parent
    folders = (root / "families", root / "export")
    files = [*sorted(file for folder in folders for file in folder.rglob("*.py"))]
    files.append(root / "core" / "limits.py")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
