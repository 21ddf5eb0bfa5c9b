"""Files are read from disk, whatever store a config's ``file_client_args`` name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_onnxdet.core.notes import note
from pytest_onnxdet.models.pipeline import settings_of_steps

KEY = "file_client_args"
#: Those of mmcv that read from elsewhere, as path, from a server or a data base.
ELSEWHERE = ("ceph", "petrel", "memcached", "lmdb", "http")


def read_from_disk(cfg: Any, path: Any) -> None:
    """Puts the disk in place of a store that is not, in ``data.test``; says so.

    Such stores need packages and access that whoever tests a graph seldom has, and where paths are
    mapped to a store's, the paths themselves are those of a disk. A backend of the user's own is
    left as it is.

    Args:
        cfg: what `load_config` read; changed in place.
        path: the config's file, for the message.
    """
    data = cfg.get("data")
    test = data.get("test") if isinstance(data, Mapping) else None
    for settings in _tables(test):
        backend = settings[KEY].get("backend")
        if backend in ELSEWHERE:
            settings[KEY] = {"backend": "disk"}
            note(
                f"{path}: data.test reads by {KEY} of backend {backend!r}: here files are read "
                "from disk alone, by the same paths"
            )


def _tables(test: Any) -> Iterator[Any]:
    """The settings in a data set that name a store: its own, and those of its pipeline's steps."""
    if not isinstance(test, Mapping):
        return
    steps = test.get("pipeline")
    inside = settings_of_steps(steps) if isinstance(steps, list | tuple) else ()
    for settings in (test, *inside):
        if isinstance(settings.get(KEY), Mapping):
            yield settings
