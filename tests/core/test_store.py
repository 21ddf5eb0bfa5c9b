"""The artifact store: one build a key, whole entries, damage repaired."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_onnxdet.core.locks import locked
from pytest_onnxdet.core.store import (
    ORPHANED,
    ArtifactStore,
    StoreError,
    content_key,
    remove_orphans,
)

INFO = {"inputs": ["input"], "static_shape": [1, 3, 4, 4]}


def writes(text: str) -> Any:
    def build(path: Path) -> Mapping[str, Any]:
        path.write_text(text)
        return INFO

    return build


def refuses(_: Path) -> Mapping[str, Any]:
    raise AssertionError("built again")


def test_second_time_is_read_from_the_store(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    made = store.get({"model": "a"}, writes("graph"))
    artifact = store.get({"model": "a"}, refuses)
    assert (made.cached, artifact.cached) == (False, True)
    assert artifact.path.read_text() == "graph"
    assert artifact.inputs == ("input",) and artifact.static_shape == (1, 3, 4, 4)


def test_every_part_decides_the_key() -> None:
    parts = {"model": "a", "opset": 17}
    assert content_key(parts) == content_key({"opset": 17, "model": "a"})
    assert content_key(parts) != content_key({**parts, "opset": 16})


@pytest.mark.parametrize("damage", ["graph", "record", "missing"])
def test_damaged_entry_is_built_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    store = ArtifactStore(tmp_path)
    made = store.get({"model": "a"}, writes("graph"))
    if damage == "graph":
        made.path.write_text("gra")
    elif damage == "record":
        made.path.with_name("artifact.json").write_text("{")
    else:
        made.path.unlink()
    with pytest.warns(UserWarning, match="damaged"):
        again = store.get({"model": "a"}, writes("graph"))
    assert not again.cached and again.path.read_text() == "graph"


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def fails(path: Path) -> Mapping[str, Any]:
        path.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.get({"model": "a"}, fails)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
    assert store.get({"model": "a"}, writes("graph")).path.read_text() == "graph"


def _count_build(path: Path) -> Mapping[str, Any]:
    with (path.parent.parent / "builds").open("a") as log:
        log.write(json.dumps(os.getpid()) + "\n")
    path.write_text("graph")
    return INFO


def _ask(root: Path) -> str:
    return str(ArtifactStore(root).get({"model": "a"}, _count_build).path)


def test_many_processes_build_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        paths = set(pool.map(_ask, [tmp_path] * 8))
    assert len(paths) == 1
    assert len((tmp_path / "builds").read_text().splitlines()) == 1


def test_unwritable_cache_names_folder_and_remedy(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StoreError, match=r"file.*--onnxdet-cache"):
        ArtifactStore(blocked / "cache")


def orphan(root: Path, key: str, age: float, name: str = "x1y2z3_4") -> Path:
    """What a killed build leaves: a folder beside its entry's place, last written so long ago."""
    folder = root / f"{key}.{name}"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_text("half")
    for path in (folder / "model.onnx", folder):
        os.utime(path, (time.time() - age,) * 2)
    return folder


def test_orphans_of_killed_builds_are_removed_at_start(tmp_path: Path) -> None:
    made = ArtifactStore(tmp_path).get({"model": "a"}, writes("graph"))
    os.utime(made.path.parent, (0, 0))
    old = [orphan(tmp_path, made.key, ORPHANED + 60, f"n_{i:06}") for i in range(10)]
    young = orphan(tmp_path, made.key, ORPHANED - 60)
    mine = [tmp_path / "notes.old", tmp_path / f"{made.key}.png", tmp_path / f"{made.key}.tar.gz"]
    for other in mine:
        other.write_text("mine")
        os.utime(other, (0, 0))
    store = ArtifactStore(tmp_path)
    assert not any(path.exists() for path in old)
    assert young.exists() and all(other.exists() for other in mine)
    assert store.get({"model": "a"}, refuses).path.read_text() == "graph"


def test_an_orphan_of_a_build_that_still_runs_stays(tmp_path: Path) -> None:
    held = orphan(tmp_path, content_key({"a": 1}), ORPHANED + 60)
    lock = tmp_path / f"{content_key({'a': 1})}.lock"
    with locked(lock):
        assert remove_orphans(tmp_path) == []
    assert held.exists()
    assert remove_orphans(tmp_path) == [held] and not held.exists()


def test_loading_an_entry_notes_that_it_is_used(tmp_path: Path) -> None:
    made = ArtifactStore(tmp_path).get({"model": "a"}, writes("graph"))
    os.utime(made.path.parent, (0, 0))
    ArtifactStore(tmp_path).get({"model": "a"}, refuses)
    assert time.time() - made.path.parent.stat().st_mtime < 60


@pytest.mark.parametrize(
    ("umask", "folder", "lock"), [(0o002, 0o775, 0o664), (0o077, 0o700, 0o600)]
)
def test_an_entry_has_the_mode_that_the_umask_leaves(
    tmp_path: Path, umask: int, folder: int, lock: int
) -> None:
    before = os.umask(umask)
    try:
        made = ArtifactStore(tmp_path / "c").get({"model": "a"}, writes("graph"))
    finally:
        os.umask(before)
    assert made.path.parent.stat().st_mode & 0o777 == folder
    assert (tmp_path / "c" / f"{made.key}.lock").stat().st_mode & 0o777 == lock


@pytest.mark.parametrize("what", ["open", "file_digest", "mkdtemp"])
def test_another_users_entry_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """As root, which may do all, permissions are not there to be tried: calls refuse instead."""
    store = ArtifactStore(tmp_path)
    if what != "mkdtemp":
        store.get({"model": "a"}, writes("graph"))

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    target = {"open": "os.open", "mkdtemp": "tempfile.mkdtemp"}
    name = target.get(what, "pytest_onnxdet.core.store.file_digest")
    monkeypatch.setattr(name, refuse)
    with pytest.raises(StoreError, match=r"cannot be used \(Permission denied\)") as caught:
        store.get({"model": "a"}, writes("graph"))
    monkeypatch.undo()
    assert "--onnxdet-cache=DIR" in str(caught.value) and "umask 002" in str(caught.value)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may write to: pytest's own are for nobody else."""
    with tempfile.TemporaryDirectory(prefix="onnxdet-shared-") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def test_a_second_user_reads_what_the_first_made_and_is_told_where_he_may_not(
    shared: Path,
) -> None:
    """As root, the second user is nobody; else a second process stands for him."""
    before = os.umask(0o000)
    try:
        ArtifactStore(shared / "open").get({"model": "a"}, writes("graph"))
        os.umask(0o077)
        ArtifactStore(shared / "closed").get({"model": "a"}, writes("graph"))
    finally:
        os.umask(before)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                try:
                    ArtifactStore(shared / "closed")
                except StoreError as error:
                    assert "cannot be written to" in str(error)
                else:
                    raise AssertionError("it is another user's")
            found = ArtifactStore(shared / "open").get({"model": "a"}, refuses)
            assert found.cached and found.path.read_text() == "graph"
            made = ArtifactStore(shared / "open").get({"model": "b"}, writes("other"))
            assert not made.cached
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
