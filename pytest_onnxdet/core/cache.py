"""What lies in a cache folder, store by store, and taking it out by age or size.

A folder may hold what is not the cache's: somebody's own ``checkpoints`` or ``graphs``. Only what
bears the name and has the content of an entry is one, and no link is followed.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_onnxdet.core.downloads import LIST, downloaded
from pytest_onnxdet.core.locks import StoreError, foreign, locked
from pytest_onnxdet.core.store import GRAPH, RECORD

#: The stores of a cache folder, and what each holds.
STORES = {
    "graphs": "exported graphs, and engines built of them",
    "reference": "what PyTorch found",
    "engines": "engines of graphs from elsewhere",
    "checkpoints": "downloads",
}
_KEY = re.compile(r"[0-9a-f]{32}")
_RECORDING = re.compile(r"[0-9a-f]{32}\.npz")
_LOCK = ".lock"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE | re.ASCII)
_SPANS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One thing that the cache keeps.

    Attributes:
        store: the folder's name below the cache.
        path: a file or a folder.
        size: bytes.
        used: when it was last used or written, seconds since the epoch.
    """

    store: str
    path: Path
    size: int
    used: float

    @property
    def lock(self) -> Path:
        """The lock that who makes or reads it holds."""
        name = self.path.name.removesuffix(".part")
        key = name if self.store == "checkpoints" else name.partition(".")[0]
        return self.path.with_name(f"{key}.lock")


def parse_size(text: str) -> int:
    """Bytes of ``2GB``, ``500M``, ``1.5GiB`` or ``12345``.

    Raises:
        ValueError: it is of another form.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r}: give a size as 2GB, 500MB or 1.5GiB")
    unit = match[2].upper()
    size = float(match[1]) * (_BINARY[unit] if match[3] else _UNITS[unit])
    if math.isinf(size):
        raise ValueError(f"{text[:20]}...: give a size as 2GB, 500MB or 1.5GiB")
    return round(size)


def parse_age(text: str) -> float:
    """Seconds of ``30d``, ``12h``, ``2w``, ``90m`` or ``10s``.

    Raises:
        ValueError: it is of another form.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r}: give an age as 30d, 12h or 2w (s, m, h, d, w)")
    age = float(match[1]) * _SPANS[match[2].lower()]
    if math.isinf(age):
        raise ValueError(f"{text[:20]}...: give an age as 30d, 12h or 2w (s, m, h, d, w)")
    return age


@dataclass(frozen=True)
class Store:
    """What a store keeps.

    Attributes:
        entries: in the order of their names.
        strange: what lies there and is none, which nothing here touches; links among it. The store
            itself where that is a link.
    """

    entries: tuple[Entry, ...] = ()
    strange: tuple[Path, ...] = ()


def read_store(cache: Path, name: str) -> Store:
    """What a store keeps; nothing where there is no such folder. Locks do not count.

    Raises:
        StoreError: the folder cannot be read.
    """
    folder = cache / name
    if folder.is_symlink():
        return Store(strange=(folder,))
    try:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise StoreError(foreign(folder, error)) from error
    ours = downloaded(folder) if name == "checkpoints" else set()
    made, strange = [], []
    for path in paths:
        if path.suffix == _LOCK or path.name == LIST:
            continue
        try:
            if path.is_symlink() or not (path.name in ours or _is_entry(name, path)):
                strange.append(path)
                continue
            stat = path.stat()
            made.append(Entry(name, path, size_of(path), stat.st_mtime))
        except FileNotFoundError:  # another process took it out
            continue
    return Store(tuple(made), tuple(strange))


def _is_entry(store: str, path: Path) -> bool:
    """Whether something in a store, which is no link, has an entry's name and content."""
    if store == "reference":
        return _RECORDING.fullmatch(path.name) is not None and _is_recording(path)
    if store == "checkpoints" or not _KEY.fullmatch(path.name) or not path.is_dir():
        return False
    return (path / RECORD).is_file() or (path / GRAPH).is_file()


def _is_recording(path: Path) -> bool:
    """Whether a file says which format of recordings it has; a damaged one is written anew."""
    try:
        with zipfile.ZipFile(path) as file:
            return "format.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder that can be read."""
    if not path.is_dir():
        return path.stat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def chosen(
    stored: Iterable[Entry],
    older_than: float | None,
    max_size: int | None,
    now: float | None = None,
) -> list[Entry]:
    """What is to be taken out, the longest unused first.

    Args:
        stored: entries of one or several stores.
        older_than: seconds; all that was not used for longer.
        max_size: bytes; of the rest the longest unused, until all together are no larger.
        now: the time; None: the clock's.
    """
    now = time.time() if now is None else now
    left = sorted(stored, key=lambda entry: (entry.used, str(entry.path)))
    out = [e for e in left if older_than is not None and now - e.used > older_than]
    left = left[len(out) :]
    total = sum(entry.size for entry in left)
    while max_size is not None and left and total > max_size:
        total -= left[0].size
        out.append(left.pop(0))
    return out


def take_out(unwanted: Sequence[Entry]) -> tuple[list[Entry], list[tuple[Entry, str]]]:
    """Removes entries, each under its lock, and the lock with it.

    Returns:
        Those that are gone; those that stay, each with the reason.
    """
    gone, stay = [], []
    for entry in unwanted:
        try:
            with locked(entry.lock, wait=False) as held:
                if not held:
                    stay.append((entry, "another process uses it"))
                    continue
                if entry.path.is_symlink():  # since it was looked at
                    stay.append((entry, "it is a link now"))
                    continue
                if entry.path.is_dir():
                    shutil.rmtree(entry.path)
                else:
                    entry.path.unlink(missing_ok=True)
                # While it is held: who waits for it sees that its file is gone, and makes another.
                with contextlib.suppress(OSError):
                    entry.lock.unlink()
        except StoreError as error:
            stay.append((entry, str(error)))
        except OSError as error:
            stay.append((entry, foreign(entry.path, error)))
        else:
            gone.append(entry)
    return gone, stay
