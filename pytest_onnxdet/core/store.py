"""The artifact store: every distinct graph is exported once, however many cases and workers ask.

An entry is a folder named by the hash of everything that decides the graph. It is written beside
its place and renamed into it under a file lock, so a reader sees a whole entry or none; a checksum
is verified at load, and an entry that fails it is built again with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from torch import nn

GRAPH = "model.onnx"
RECORD = "artifact.json"


class StoreError(Exception):
    """The cache cannot be used; the message names the folder and the remedy."""


@dataclass(frozen=True)
class Artifact:
    """An exported graph on disk.

    Attributes:
        path: the .onnx file.
        key: hash of everything that decided the graph.
        cached: whether it was in the store already rather than exported by this call.
        info: what the exporter recorded: ``seconds``, ``nodes``, ``bytes``, ``opset``,
            ``domains``, ``inputs``, ``static_shape``, ``shape``, ``lowering``, ``masks``.
    """

    path: Path
    key: str
    cached: bool
    info: Mapping[str, Any]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The graph's input names, in order."""
        return tuple(self.info["inputs"])

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The baked (N, 3, H, W), or None for a dynamic graph."""
        shape = self.info.get("static_shape")
        return tuple(shape) if shape else None


def content_key(parts: Mapping[str, Any]) -> str:
    """A hash of named, JSON-representable parts; the order of the names does not matter."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_digest(detector: nn.Module) -> str:
    """A hash of what was loaded, wherever it came from."""
    digest = hashlib.sha256()
    for name, value in sorted(detector.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class ArtifactStore:
    """A folder of artifacts, shared by processes.

    Args:
        root: made when missing.

    Raises:
        StoreError: the folder cannot be made or written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise StoreError(
                f"the cache folder {root} cannot be written to ({error.strerror}); "
                "choose another with --onnxdet-cache DIR"
            ) from error

    def get(self, parts: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        """The artifact of these parts; built when it is missing or does not pass its checksum.

        Args:
            parts: everything that decides the graph.
            build: writes the graph to the path it is given and returns the artifact's ``info``.

        Returns:
            The artifact; ``cached`` is False where this call built it.
        """
        key = content_key(parts)
        place = self.root / key
        with FileLock(self.root / f"{key}.lock"):
            cached = self._load(place, key)
            if cached is not None:
                return cached
            self._build(place, parts, build)
            made = self._load(place, key)
            assert made is not None, "an entry that was just written must load"
            return Artifact(made.path, key, cached=False, info=made.info)

    def _load(self, place: Path, key: str) -> Artifact | None:
        if not place.exists():
            return None
        try:
            record = json.loads((place / RECORD).read_text())
            if file_digest(place / GRAPH) != record["sha256"]:
                raise ValueError("its checksum does not match")
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(
                f"the cached artifact {place} is damaged ({error}); it is built again",
                stacklevel=3,
            )
            shutil.rmtree(place)
            return None
        return Artifact(place / GRAPH, key, cached=True, info=record["info"])

    def _build(
        self, place: Path, parts: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
    ) -> None:
        beside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=self.root))
        try:
            start = time.perf_counter()
            info = dict(build(beside / GRAPH))
            info.setdefault("seconds", time.perf_counter() - start)
            record = {"sha256": file_digest(beside / GRAPH), "parts": dict(parts), "info": info}
            (beside / RECORD).write_text(json.dumps(record, indent=1, default=str))
            os.replace(beside, place)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
