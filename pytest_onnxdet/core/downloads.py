"""Which files of a folder this package has downloaded: a list that lies beside them.

A folder of checkpoints may hold files that somebody put there, under the same kind of name. Only
what the list names, and what has not been written since, is the cache's to take out.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LIST = ".onnxdet-downloads"
PART = ".part"


def note_download(file: Path) -> None:
    """Adds a file to its folder's list, or one that is to come: its ``.part``."""
    try:
        stat = file.stat()
        state = f"{stat.st_size} {stat.st_mtime_ns}"
    except FileNotFoundError:
        state = ""
    # One write at the end of the file: processes that download different files do not disturb
    # each other. A folder that takes no list keeps its files, as nobody knows whose they are.
    with contextlib.suppress(OSError):
        handle = os.open(file.parent / LIST, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, f"{state}\t{file.name}\n".encode())
        finally:
            os.close(handle)


def downloaded(folder: Path) -> set[str]:
    """The names of the files in a folder that were downloaded, and are as they were then."""
    try:
        lines = (folder / LIST).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        state, _, name = line.partition("\t")
        try:
            stat = os.lstat(folder / name)
        except (OSError, ValueError):
            continue
        if name.endswith(PART) or state == f"{stat.st_size} {stat.st_mtime_ns}":
            found.add(name)
    return found
