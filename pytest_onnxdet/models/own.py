"""What a user says of a detector of theirs, in place of a spec. Imports nothing heavy.

The command line names one (``--onnxdet-config``), pyproject.toml any number of them
(``[tool.pytest-onnxdet.models.NAME]``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_onnxdet.models.spec import KnownFailure, Tolerance, is_name

#: The profile of such models.
OWN = "own"


@dataclass(frozen=True)
class OwnModel:
    """What a user says of a detector.

    Attributes:
        config: the file.
        checkpoint: a file or an address; None: random weights, where the run asks for those.
        images: a folder; None: the annotations' own, or the config's.
        annotations: a COCO json, or a folder of Pascal VOC's form; None: the config's
            ``data.test``, and none where ``images`` is given.
        name: of the model; empty: the config's.
        tolerances: by backend.
        known_failures: what is excused.
    """

    config: Path
    checkpoint: str | None = None
    images: Path | None = None
    annotations: Path | None = None
    name: str = ""
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    known_failures: tuple[KnownFailure, ...] = ()


def model_name(config: Path) -> str:
    """A config's name as a model's, which is a marker, too: letters, digits and underscores."""
    name = "".join(letter if letter.isalnum() else "_" for letter in config.stem)
    return name if is_name(name) else f"model_{name}"
