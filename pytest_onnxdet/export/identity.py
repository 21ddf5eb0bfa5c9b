"""What decides an exported graph, by name: a change of any of it is another graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.sources import objects_digest, package_digest

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.export.options import ExportOptions
    from pytest_onnxdet.models.spec import ModelSpec


def identity(spec: ModelSpec, options: ExportOptions, detector: nn.Module) -> dict[str, Any]:
    """Everything that decides the graph, by name: what the store hashes.

    Args:
        spec: which detector.
        options: which graph of it.
        detector: the spec's detector: what it holds and does decides, not where it is from.
    """
    from importlib.metadata import version

    from pytest_onnxdet.models.build import load_config

    asked = asdict(options)
    config = load_config(spec)
    return {
        "model": spec.name,
        "config": config.model.to_dict(),
        # CornerNet's canvas is the pipeline's, and its border is part of the graph.
        "pipeline": list(config.data.test.pipeline),
        "weights": weights_digest(detector),
        "options": asked,
        "versions": {name: version(name) for name in ("torch", "mmdet", "mmcv-full", "onnx")},
        "code": code_digest(detector),
    }


def weights_digest(detector: nn.Module) -> str:
    """A hash of what was loaded, wherever it came from."""
    digest = hashlib.sha256()
    for name, value in sorted(detector.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def code_digest(detector: nn.Module) -> dict[str, str]:
    """Hashes of the source that decides what a detector finds, whoever runs it.

    Of this package, of every module of the detector, and of every step of its test pipeline.
    """
    cfg: Any = getattr(detector, "cfg", None)
    steps = [] if cfg is None else list(_steps(cfg.data.test.pipeline))
    return {
        "package": package_digest(),
        "modules": objects_digest(detector.modules()),
        "pipeline": objects_digest(steps),
    }


def _steps(pipeline: Iterable[Any]) -> Iterator[type]:
    """The classes of a pipeline's steps, and of the steps within them."""
    from mmdet.datasets import PIPELINES

    for step in pipeline:
        if not isinstance(step, Mapping):  # one that is made already
            yield type(step)
            continue
        kind = step["type"]
        known = kind if isinstance(kind, type) else PIPELINES.get(kind)
        if known is not None:  # else it is for the data room to refuse
            yield known
        yield from _steps(step.get("transforms", ()))
