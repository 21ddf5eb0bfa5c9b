"""The artifact store: one build a key, whole entries, damage repaired."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_onnxdet.core.store import ArtifactStore, StoreError, content_key

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
