"""The shipped minis: mmdet's configs, thinned by ``overrides`` and ``wider``, with weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_onnxdet.models.mini.overrides import DOCUMENTED
from pytest_onnxdet.models.mini.wider import WIDER
from pytest_onnxdet.models.spec import ModelSpec

#: The documented twelve come first.
MINIS = DOCUMENTED | WIDER
CLASSES = ("circle", "square", "triangle")
WEIGHTS = Path(__file__).parent / "weights"
_LENGTH_BYTES = 8  # a safetensors file starts with the length of its JSON header


def read_header(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file: what was trained, how, and the AP it reached.

    Returns {} for a file that is missing or broken: building the model raises for that.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > 10_000_000:
                return {}
            return dict(json.loads(file.read(length)).get("__metadata__", {}))
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def mini_specs() -> tuple[ModelSpec, ...]:
    """The minis, profile "mini"; expected AP is what their training measured."""
    specs = []
    for name, mini in MINIS.items():
        path = WEIGHTS / f"{name}.safetensors"
        header = read_header(path)
        kinds = ("bbox", "segm") if mini["masks"] else ("bbox",)
        expected = {k: float(header[f"{k}_mAP"]) for k in kinds if f"{k}_mAP" in header}
        specs.append(
            ModelSpec(
                name=name,
                config=mini["config"],
                profile="mini",
                overrides=mini["overrides"],
                weights=str(path),
                classes=CLASSES,
                masks=mini["masks"],
                expected_ap=expected,
                **({"tied_images": mini["tied_images"]} if "tied_images" in mini else {}),
            )
        )
    return tuple(specs)
