"""What lies at a path."""

from pathlib import Path

import pytest

from pytest_onnxdet.core.files import leads_to_stream


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_stream_is_one_through_links_too(tmp_path: Path, name: str) -> None:
    assert leads_to_stream(Path(name))
    (tmp_path / "one").symlink_to(name)
    (tmp_path / "two").symlink_to("one")
    assert leads_to_stream(tmp_path / "two")


def test_files_links_to_files_and_loops_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    assert not any(leads_to_stream(tmp_path / name) for name in ("file", "link", "loop", "none"))
