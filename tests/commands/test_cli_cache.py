"""``onnxdet cache``: what is there, and what goes."""

import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_models import Ran

from pytest_onnxdet.core.downloads import LIST, note_download
from pytest_onnxdet.core.store import ORPHANED

Run = Callable[..., Ran]
DAY = 86400.0


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Graphs of 1,000 bytes, unused for 0 to 4 days; a recording of 10 days; a checkpoint; more."""
    root = tmp_path / "cache"
    for days in range(5):
        folder = root / "graphs" / f"{days:032x}"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"x" * 1000)
        os.utime(folder, (time.time() - days * DAY - 60,) * 2)
        folder.with_name(f"{days:032x}.lock").write_text("")
    for name in (f"reference/{7:032x}.npz", "checkpoints/net.pth", "wheels/a.whl"):
        file = root / name
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * 500)
        if file.suffix == ".npz":
            with zipfile.ZipFile(file, "w") as made:
                made.writestr("format.npy", b"")
                made.comment = b"x" * 382
            assert file.stat().st_size == 500
        os.utime(file, (time.time() - 10 * DAY - 60,) * 2)
    note_download(root / "checkpoints" / "net.pth")
    return root


def left(cache: Path) -> list[str]:
    return sorted(
        str(path.relative_to(cache))
        for store in cache.iterdir()
        for path in store.iterdir()
        if path.suffix != ".lock" and path.name != LIST
    )


def test_it_lists_size_and_entries_of_each_store(onnxdet: Run, cache: Path) -> None:
    before = left(cache)
    ran = onnxdet("cache", "--cache", cache)
    assert ran.code == 0 and ran.err == "", ran
    rows = {line.split()[0]: line.split() for line in ran.out.splitlines()}
    assert rows["graphs"][1:6] == ["5", "5.0", "kB", "4", "d"]
    assert rows["reference"][1:6] == ["1", "500", "B", "10", "d"]
    assert rows["engines"][1:4] == ["0", "0", "B"]
    assert rows["all"][1:] == ["7", "6.0", "kB"]
    assert left(cache) == before


def test_prune_by_age(onnxdet: Run, cache: Path) -> None:
    ran = onnxdet("cache", "--cache", cache, "--prune", "--older-than", "3d")
    assert ran.code == 0 and "4 entries, 3.0 kB, taken out of" in ran.out, ran
    assert "3 entries, 3.0 kB, left" in ran.out
    assert left(cache) == [*(f"graphs/{days:032x}" for days in range(3)), "wheels/a.whl"]


def test_prune_by_size_takes_the_longest_unused_first(onnxdet: Run, cache: Path) -> None:
    ran = onnxdet("cache", "--cache", cache, "--prune", "--max-size", "2kB")
    assert ran.code == 0 and "5 entries, 4.0 kB, taken out" in ran.out, ran
    assert left(cache) == [f"graphs/{0:032x}", f"graphs/{1:032x}", "wheels/a.whl"]


def test_a_dry_run_leaves_all(onnxdet: Run, cache: Path) -> None:
    before = left(cache)
    words = ("--prune", "--dry-run", "--store", "graphs", "--older-than", "3d", "--max-size", "1kB")
    ran = onnxdet("cache", "--cache", cache, *words)
    assert ran.code == 0 and ran.out.count("would go: ") == 4, ran
    assert "unused for 4 d" in ran.out and "4 entries, 4.0 kB, would go from" in ran.out
    assert left(cache) == before


def test_prune_removes_orphans(onnxdet: Run, cache: Path) -> None:
    folder = cache / "graphs" / f"{1:032x}.abcdefgh"
    folder.mkdir()
    os.utime(folder, (time.time() - ORPHANED - 60,) * 2)
    assert onnxdet("cache", "--cache", cache, "--prune", "--older-than", "99d").code == 0
    assert not folder.exists() and len(left(cache)) == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prune",), "--prune: say what goes: --older-than 30d, --max-size 2GB"),
        (("--max-size", "2GB"), "--max-size says what --prune takes out: add --prune"),
        (("--dry-run",), "--dry-run says what --prune takes out"),
        (("--prune", "--older-than", "old"), "--older-than: 'old': give an age as 30d"),
        (("--prune", "--max-size=-2GB"), "--max-size: '-2GB': give a size as 2GB"),
        (("--store", "graph"), "--store: 'graph': there are graphs, reference, engines"),
        (("--cache", "nowhere"), "--cache: nowhere: there is no such folder"),
    ],
)
def test_mistakes(onnxdet: Run, words: tuple[str, ...], said: str) -> None:
    ran = onnxdet("cache", *words)
    assert ran.code == 2 and said in ran.err, ran.err


def test_a_cache_that_is_not_there_is_empty(
    onnxdet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ran = onnxdet("cache")
    assert ran.code == 0 and "(not there yet)" in ran.out and not list(tmp_path.iterdir())


def test_what_cannot_be_taken_out_is_said(
    onnxdet: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", refuse)
    ran = onnxdet("cache", "--cache", cache, "--prune", "--max-size", "0")
    assert ran.code == 1 and ran.err.count("stays: ") == 5 and "5 entries, 5.0 kB, left" in ran.out


def test_a_projects_own_files_stay(
    onnxdet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = [tmp_path / "checkpoints" / "mine.pth", tmp_path / "graphs" / "paper.png"]
    for file in mine:
        file.parent.mkdir()
        file.write_bytes(b"mine")
        os.utime(file, (5, 5))
    monkeypatch.chdir(tmp_path)
    ran = onnxdet("cache", "--cache", ".", "--prune", "--older-than", "1d")
    assert ran.code == 2 and "--cache: . is no cache of pytest-onnxdet (graphs/pap" in ran.err, ran
    assert all(file.exists() for file in mine)
    ran = onnxdet("cache", "--cache", "checkpoints", "--prune", "--older-than", "1d")
    assert ran.code == 2 and "(it has no graphs, reference, engines and checkpoints)" in ran.err


def test_what_lies_among_entries_stays_and_is_named(onnxdet: Run, cache: Path) -> None:
    mine = [cache / "checkpoints" / "mine-c2398f9e.pth", cache / "graphs" / "paper.png"]
    for file in mine:
        file.write_bytes(b"mine")
        os.utime(file, (5, 5))
    ran = onnxdet("cache", "--cache", cache, "--prune", "--older-than", "0s")
    assert ran.code == 0 and "7 entries" in ran.out, ran
    assert "mine-c2398f9e.pth is no entry of the cache: not touched" in ran.err
    assert left(cache) == ["checkpoints/mine-c2398f9e.pth", "graphs/paper.png", "wheels/a.whl"]
    # The locks of what went are gone with it.
    assert not list(cache.rglob("*.lock"))


def test_a_store_that_is_a_link_is_not_followed(onnxdet: Run, cache: Path, tmp_path: Path) -> None:
    (cache / "graphs").rename(tmp_path / "elsewhere")
    (cache / "graphs").symlink_to(tmp_path / "elsewhere")
    ran = onnxdet("cache", "--cache", cache, "--prune", "--max-size", "0")
    assert ran.code == 0 and "graphs is a link, which is not followed: it stays" in ran.err, ran
    assert len([p for p in (tmp_path / "elsewhere").iterdir() if p.is_dir()]) == 5


def test_an_empty_cache_is_one(onnxdet: Run, cache: Path) -> None:
    for _ in range(2):
        ran = onnxdet("cache", "--cache", cache, "--prune", "--max-size", "0")
        assert ran.code == 0, ran.err
