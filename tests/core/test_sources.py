"""Code in the keys of caches: an edit that adds no parameter is another key."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_onnxdet.core.sources import ROOMS, objects_digest, package_digest
from pytest_onnxdet.export.identity import weights_digest

HEAD = """
from torch import nn

def shift(x):
    return x + 1.0

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

class Head(Base):
    def forward(self, x):
        return shift(self.layer(x))
"""


def head(folder: Path, text: str) -> Any:
    """The head of a repository's file, as a process that starts anew imports it."""
    folder.mkdir()
    path = folder / "custom_head.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("custom_head", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_head"] = module
    try:
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        made = nn.Sequential(module.Head())
        return made, objects_digest(made.modules())
    finally:
        del sys.modules["custom_head"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("shift(self.layer(x))", "shift(self.layer(x)) * 2"),
        ("x + 1.0", "x + 2.0"),  # a function beside the class
        ("nn.Linear(2, 2)", "nn.Linear(2, 2, True)"),  # what it inherits
    ],
)
def test_a_forward_edited_without_a_new_parameter_is_another_key(
    tmp_path: Path, old: str, new: str
) -> None:
    before, key = head(tmp_path / "before", HEAD)
    after, other = head(tmp_path / "after", HEAD.replace(old, new))
    assert weights_digest(before) == weights_digest(after)  # which is why they were not enough
    assert key != other
    assert head(tmp_path / "again", HEAD)[1] == key


def test_a_class_without_a_file_counts_by_its_code() -> None:
    def made(body: str) -> Any:
        space: dict[str, Any] = {"nn": nn, "__name__": "typed_in"}
        exec(f"class Head(nn.Module):\n    def forward(self, x):\n        return {body}", space)
        return space["Head"]()

    assert objects_digest([made("x + 1")]) == objects_digest([made("x + 1")])
    assert objects_digest([made("x + 1")]) != objects_digest([made("x + 2")])
    assert objects_digest([made("x + 1")]) != objects_digest([made("x - 1")])


def test_a_method_put_in_from_elsewhere_counts() -> None:
    one = nn.Sequential(nn.ReLU())
    key = objects_digest(one.modules())
    one[0].forward = lambda x: x * 2
    assert objects_digest(one.modules()) != key


def test_rooms_that_decide_what_is_kept_are_in_the_packages_hash() -> None:
    package = Path(sys.modules["pytest_onnxdet"].__file__ or "").parent
    assert all((package / room).is_dir() for room in ROOMS)
    assert (package / "core" / "limits.py").is_file() and "core" in ROOMS
    assert package_digest() == package_digest()
