"""Which of a run's models have a test pipeline that augments."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_onnxdet.models.spec import ModelSpec

#: What a config's text has where its pipeline may augment: anything but a plain ``flip=False`` and
#: a single scale.
MAYBE = re.compile(
    r"""\bflip['"]?\s*[=:]\s*(?!False\b)|\b(?:img_scale|scale_factor)['"]?\s*[=:]\s*[\[A-Za-z_]"""
)
BASES = re.compile(r"_base_\s*=\s*(\[[^\]]*\]|\([^)]*\)|['\"][^'\"]+['\"])")


def augmented(specs: Iterable[ModelSpec], *, thorough: bool = False) -> dict[str, str]:
    """By model, how its test pipeline augments; models that do not are left out.

    Args:
        specs: the run's models.
        thorough: read every config as mmdet does. Else only those are whose text may augment, as
            reading one loads PyTorch; a config that cannot be read is left to who builds it.

    Raises:
        BuildError: ``thorough``, and a config cannot be read.
    """
    by_model = {}
    for spec in specs:
        if not thorough and not _may_augment(spec):
            continue
        from pytest_onnxdet.models.checkpoint import BuildError

        try:
            views = of_model(spec)
        except BuildError:
            if thorough:
                raise
            continue
        if views:
            by_model[spec.name] = views
    return by_model


def of_model(spec: ModelSpec) -> str:
    """How the model's test pipeline augments; empty where it does not."""
    from pytest_onnxdet.data.augmentation import augmentation
    from pytest_onnxdet.models.build import load_config

    return augmentation(load_config(spec).data.test.pipeline)


def said_of_views(spec: ModelSpec) -> dict[str, str]:
    """What a record says of the test pipeline: ``augmentation``, where there is one."""
    views = of_model(spec)
    return {"augmentation": views} if views else {}


def _may_augment(spec: ModelSpec) -> bool:
    path = Path(spec.config)
    if not path.is_absolute():
        installed = find_spec("mmdet")
        if installed is None or installed.origin is None:
            return False
        package = Path(installed.origin).parent
        roots = (package / ".mim" / "configs", package.parent / "configs")
        path = next((root / path for root in roots if (root / path).is_file()), path)
    text = _text(path, set()) + "".join(
        f"{k.split('.')[-1]}: {v}\n" for k, v in spec.overrides.items()
    )
    return MAYBE.search(text) is not None


def _text(path: Path, seen: set[Path]) -> str:
    """A config's text and that of the configs it is based on."""
    path = path.resolve()
    if path in seen or not path.is_file():
        return ""
    seen.add(path)
    text = path.read_text(errors="replace")
    names = [
        name for bases in BASES.findall(text) for name in re.findall(r"['\"]([^'\"]+)['\"]", bases)
    ]
    return "\n".join([text, *(_text(path.parent / name, seen) for name in names)])
