"""The user's cache folder: where XDG says, if it says so properly."""

from pathlib import Path

import pytest

from pytest_onnxdet.backends.tensorrt.backend import engines_beside
from pytest_onnxdet.core.paths import user_cache
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.models.download import default_folder


@pytest.mark.parametrize("value", [None, "", "relative", "./relative"])
def test_without_an_absolute_folder_it_is_below_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_cache() == tmp_path / ".cache" / "pytest-onnxdet"


def test_all_that_is_kept_for_the_user_lies_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "pytest-onnxdet"
    assert default_folder() == user_cache() / "checkpoints"
    loose = Artifact(Path("/models/net.onnx"), "key", False, {})
    assert engines_beside(loose) == user_cache() / "engines"
