"""Locks of the cache, which several processes, and perhaps several users, share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_onnxdet.core.errors import StageError


class StoreError(StageError):
    """The cache cannot be used; the message names the folder and the remedy."""

    stage = "cache"


def open_mode(wanted: int) -> int:
    """A file mode less what the process's umask takes from it."""
    umask = os.umask(0)
    os.umask(umask)
    return wanted & ~umask


@contextmanager
def locked(lock: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a lock for the duration of the block.

    Its file has the mode that the umask leaves: where groups may write, a second user takes it.

    Args:
        lock: the lock's file, made where it is missing.
        wait: whether to wait for who holds it.

    Returns:
        Whether it is held: False only without ``wait``.

    Raises:
        StoreError: the file cannot be opened, as another user's; the message says whose.
    """
    held = FileLock(lock, mode=open_mode(0o666), timeout=-1 if wait else 0)
    try:
        held.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise StoreError(foreign(lock, error)) from error
    try:
        yield True
    finally:
        held.release()


def foreign(path: Path, error: OSError) -> str:
    """What to say of a file of the cache that cannot be used: whose it is, and what to do."""
    return (
        f"{path} in the cache{_owner(path)} cannot be used ({error.strerror or error}): choose a "
        "cache of your own with --onnxdet-cache=DIR, or share one: a group's folder (chmod g+ws), "
        "and umask 002 for everybody who uses it"
    )


def _owner(path: Path) -> str:
    for one in (path, path.parent):
        try:
            owner = one.stat().st_uid
        except OSError:
            continue
        if not hasattr(os, "getuid") or owner == os.getuid():
            return ""
        try:
            import pwd

            return f", which belongs to {pwd.getpwuid(owner).pw_name},"
        except (ImportError, KeyError):
            return f", which belongs to user {owner},"
    return ""
