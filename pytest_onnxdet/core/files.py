"""What lies at a path: a file, or something in its place that would be waited for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
#: Where Linux and others have a process's open files.
_STREAMS = ("/proc/self/fd/", "/dev/fd/", "/dev/std")
_LINKS = 40  # as many as Linux follows


def is_file(path: Path) -> bool:
    """Whether there is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def no_file(path: Path) -> str:
    """What lies in a file's place; empty where it is a file, or nothing is there.

    A named pipe would be waited for without end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    return next((name for is_one, name in _KINDS if is_one(mode)), "")


def leads_to_stream(path: Path) -> bool:
    """Whether a path, or a link it goes through, is a stream of this process: ``/dev/stdout``.

    Where the stream goes to a file, that is what the path resolves to in the end.
    """
    place = os.path.abspath(path)
    for _ in range(_LINKS):
        if place.startswith(_STREAMS):
            return True
        if not os.path.islink(place):
            return False
        place = os.path.abspath(os.path.join(os.path.dirname(place), os.readlink(place)))
    return False
