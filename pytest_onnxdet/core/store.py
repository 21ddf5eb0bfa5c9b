"""The artifact store: every distinct graph is exported once, however many cases and workers ask.

An entry is a folder named by the hash of everything that decides the graph. It is written beside
its place and renamed into it under a file lock, so a reader sees a whole entry or none; a checksum
is verified at load, and an entry that fails it is built again with a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.locks import StoreError, foreign, locked, open_mode
from pytest_onnxdet.core.notes import note

__all__ = ["Artifact", "ArtifactStore", "StoreError", "content_key", "file_digest"]

GRAPH = "model.onnx"
RECORD = "artifact.json"
#: Seconds after which what a killed process left beside an entry is removed: a day, which no build
#: takes.
ORPHANED = 24 * 3600.0
#: What is written beside an entry, before it is renamed: its name, and eight letters of tempfile's.
_ORPHAN = re.compile(r"([0-9a-f]{32})\.[a-z0-9_]{8}")


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


def touch(place: Path) -> None:
    """Notes that an entry was used now, where it is ours to note: it is pruned by its age."""
    with contextlib.suppress(OSError):
        os.utime(place)


def remove_orphans(root: Path, older_than: float = ORPHANED) -> list[Path]:
    """Removes what killed processes left beside entries.

    Args:
        root: a store's folder.
        older_than: seconds since something was last written there.

    Returns:
        What was removed. What another process works on, or what is another user's, stays; a link
        is not followed.
    """
    removed: list[Path] = []
    if root.is_symlink():
        return removed
    for path in sorted(root.iterdir()):
        match = _ORPHAN.fullmatch(path.name)
        if match is None or path.is_symlink():
            continue
        try:
            if time.time() - _written(path) < older_than:
                continue
            with locked(root / f"{match[1]}.lock", wait=False) as held:
                if not held:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        except (OSError, StoreError):
            continue
        removed.append(path)
    return removed


def _written(path: Path) -> float:
    """When something was last written to a file, or to a folder and what is in it."""
    inside = path.iterdir() if path.is_dir() else ()
    return max(one.stat().st_mtime for one in (path, *inside))


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
        remove_orphans(root)

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
        with locked(self.root / f"{key}.lock"):
            cached = self._load(place, key)
            if cached is not None:
                return cached
            self._build(place, parts, build)
            made = self._load(place, key)
            if made is None:
                raise StoreError(f"{place}: was just written and cannot be read: check the disk")
            return Artifact(made.path, key, cached=False, info=made.info)

    def _load(self, place: Path, key: str) -> Artifact | None:
        if not place.exists():
            return None
        try:
            record = json.loads((place / RECORD).read_text())
            if file_digest(place / GRAPH) != record["sha256"]:
                raise ValueError("its checksum does not match")
        except PermissionError as error:
            raise StoreError(foreign(place, error)) from error
        except (OSError, ValueError, KeyError) as error:
            note(f"the cached artifact {place} is damaged ({error}); it is built again")
            try:
                shutil.rmtree(place)
            except OSError as fixed:
                raise StoreError(foreign(place, fixed)) from error
            return None
        touch(place)
        return Artifact(place / GRAPH, key, cached=True, info=record["info"])

    def _build(
        self, place: Path, parts: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
    ) -> None:
        try:
            beside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=self.root))
        except OSError as error:
            raise StoreError(foreign(self.root, error)) from error
        try:
            start = time.perf_counter()
            info = dict(build(beside / GRAPH))
            info.setdefault("seconds", time.perf_counter() - start)
            record = {"sha256": file_digest(beside / GRAPH), "parts": dict(parts), "info": info}
            (beside / RECORD).write_text(json.dumps(record, indent=1, default=str))
            beside.chmod(open_mode(0o777))  # mkdtemp lets nobody else in
            os.replace(beside, place)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
