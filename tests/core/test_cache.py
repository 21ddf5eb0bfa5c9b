"""What lies in a cache folder: sizes, ages, and what goes first."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_onnxdet.core.cache import (
    STORES,
    Entry,
    chosen,
    parse_age,
    parse_size,
    read_store,
    take_out,
)
from pytest_onnxdet.core.downloads import note_download
from pytest_onnxdet.core.locks import locked

KEY = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0", 0), ("12345", 12345), ("2GB", 2 * 10**9), ("2g", 2 * 10**9), ("1.5GiB", 1610612736),
     ("500 MB", 5 * 10**8), ("3kb", 3000), ("1KiB", 1024), ("7B", 7), ("1T", 10**12)],
)  # fmt: skip
def test_sizes(text: str, wanted: int) -> None:
    assert parse_size(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("30d", 30 * 86400), ("12h", 43200), ("2w", 14 * 86400), ("90m", 5400), ("1.5 D", 129600)],
)
def test_ages(text: str, wanted: float) -> None:
    assert parse_age(text) == wanted


@given(st.text())
def test_any_other_text_is_refused_with_the_form(text: str) -> None:
    for parse, form in ((parse_size, "2GB"), (parse_age, "30d")):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert form in str(error)


@given(st.integers(0, 10**15), st.sampled_from(["", "B", "kB", "MB", "GiB"]))
def test_whole_sizes_round_trip(count: int, unit: str) -> None:
    factor = {"": 1, "B": 1, "kB": 1000, "MB": 10**6, "GiB": 2**30}[unit]
    assert abs(parse_size(f"{count}{unit}") - count * factor) <= 1e-9 * count * factor


ENTRIES = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=20)


@given(ENTRIES, st.none() | st.integers(0, 1000), st.none() | st.integers(0, 5000))
def test_what_goes(
    figures: list[tuple[int, int]], older_than: int | None, max_size: int | None
) -> None:
    stored = [Entry("graphs", Path(str(i)), size, used) for i, (size, used) in enumerate(figures)]
    out = chosen(stored, older_than, max_size, now=1000)
    left = [entry for entry in stored if entry not in out]
    assert len(out) + len(left) == len(stored) == len({*out, *left})
    if older_than is not None:
        assert all(1000 - entry.used <= older_than for entry in left)
    if max_size is not None:
        assert sum(entry.size for entry in left) <= max_size
    # Nothing goes before what was used longer ago, and nothing without need.
    assert max((e.used for e in out), default=0) <= min((e.used for e in left), default=10**9)
    if out and max_size is not None and (older_than is None or 1000 - out[-1].used <= older_than):
        assert sum(entry.size for entry in left) + out[-1].size > max_size
    if older_than is None and max_size is None:
        assert not out


def entries(cache: Path, store: str) -> list[Entry]:
    return list(read_store(cache, store).entries)


def graph_in(cache: Path) -> Path:
    graph = cache / "graphs" / KEY
    graph.mkdir(parents=True)
    (graph / "model.onnx").write_bytes(b"x" * 100)
    return graph


def test_entries_of_a_store(tmp_path: Path) -> None:
    assert entries(tmp_path, "graphs") == []
    graph = graph_in(tmp_path)
    (graph / "artifact.json").write_bytes(b"x" * 11)
    os.utime(graph, (5, 5))
    (tmp_path / "graphs" / f"{KEY}.lock").write_text("")
    (one,) = entries(tmp_path, "graphs")
    assert (one.path, one.size, one.used) == (graph, 111, 5.0)
    assert one.lock == tmp_path / "graphs" / f"{KEY}.lock"
    file = tmp_path / "checkpoints" / "net_c2398f9e.pth.part"
    file.parent.mkdir()
    note_download(file)
    file.write_bytes(b"x")
    assert entries(tmp_path, "checkpoints")[0].lock == file.with_name("net_c2398f9e.pth.lock")


def test_what_has_not_the_form_of_an_entry_is_none(tmp_path: Path) -> None:
    graph_in(tmp_path)
    mine = [
        *("graphs/paper.png", f"graphs/{KEY}.png", f"graphs/{'a' * 32}/notes.txt"),
        *(f"reference/{KEY}.npz", "reference/table.npz", "engines/net.engine"),
        *("checkpoints/mine.pth", "checkpoints/net-c2398f9e.pth"),
    ]
    for name in mine:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"mine")
    found = {name: read_store(tmp_path, name) for name in STORES}
    assert [e.path.name for store in found.values() for e in store.entries] == [KEY]
    assert sum(len(store.strange) for store in found.values()) == len(mine)


def test_a_download_that_somebody_replaced_is_his(tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / "net.pth"
    file.parent.mkdir()
    file.write_bytes(b"fetched")
    note_download(file)
    assert [e.path for e in entries(tmp_path, "checkpoints")] == [file]
    file.write_bytes(b"his own")
    os.utime(file, (5, 5))
    assert entries(tmp_path, "checkpoints") == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = graph_in(tmp_path / "elsewhere")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "graphs").symlink_to(elsewhere.parent)
    engines = tmp_path / "cache" / "engines"
    engines.mkdir()
    (engines / KEY).symlink_to(elsewhere)
    assert read_store(tmp_path / "cache", "graphs").strange == (tmp_path / "cache" / "graphs",)
    found = read_store(tmp_path / "cache", "engines")
    assert not found.entries and found.strange == (engines / KEY,)


def test_what_another_process_uses_stays(tmp_path: Path) -> None:
    graph = graph_in(tmp_path)
    (one,) = entries(tmp_path, "graphs")
    with locked(one.lock):
        assert take_out([one]) == ([], [(one, "another process uses it")])
    assert graph.exists() and one.lock.exists()
    assert take_out([one]) == ([one], []) and not graph.exists() and not one.lock.exists()
