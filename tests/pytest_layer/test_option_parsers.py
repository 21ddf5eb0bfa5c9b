"""Whatever an option is given: a value that can be used, or a refusal that names the option."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_onnxdet.commands.caps import take_caps
from pytest_onnxdet.commands.common import CommandError, DictOptions
from pytest_onnxdet.core.vocabulary import SHAPES
from pytest_onnxdet.pytest_layer.values import Values


def values(**options: Any) -> Values:
    """The reader of options of a command line with these."""
    config: Any = SimpleNamespace(
        getoption=lambda name: options.get(name.removeprefix("onnxdet_")),
        getini=lambda name: "",
        inipath=None,
        invocation_params=SimpleNamespace(dir=Path.cwd(), args=()),
    )
    return Values(config)


TEXTS = st.text() | st.from_regex(r"[0-9,\s+-]{0,9}") | st.sampled_from(["1,2", "b1", "static"])


@given(TEXTS)
@example("\u0663")  # a digit that int() takes
@example("1_0")
@example("1,,2,1")
def test_numbers(text: str) -> None:
    try:
        found = values(batch=[text]).numbers("batch")
    except pytest.UsageError as error:
        assert "--onnxdet-batch" in str(error)
    else:
        assert found == list(dict.fromkeys(found)) and all(number > 0 for number in found)
        assert set("0123456789, \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029").issuperset(
            character for character in text if not character.isspace()
        )


@given(TEXTS)
def test_words_of_a_list(text: str) -> None:
    try:
        found = values(shape=[text]).chosen("shape", SHAPES)
    except pytest.UsageError as error:
        assert "--onnxdet-shape" in str(error)
    else:
        assert found and set(found) <= set(SHAPES) and len(set(found)) == len(found)


@given(st.text())
def test_folders(text: str) -> None:
    for name, exists in (("cache", False), ("data", True)):
        try:
            path = values(**{name: text}).folder(name, exists=exists)
        except pytest.UsageError as error:
            assert f"--onnxdet-{name}" in str(error)
        else:
            assert path is not None and path.is_absolute() and (path.is_dir() or not exists)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
@example(["a=[1,(2,3)]", "b.c=x,y"])
@example(["a=["])
@example(["a=(1,2"])
@example(["=1"])
def test_cfg_options(words: list[str]) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--cfg-options", nargs="+", action=DictOptions)
    try:
        found = parser.parse_args(["--cfg-options", *words]).cfg_options
    except (argparse.ArgumentError, SystemExit):
        return
    assert isinstance(found, dict) and all("=" in word for word in words)


@given(
    st.none() | st.integers() | st.text(max_size=3) | st.booleans() | st.floats(),
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    st.sampled_from(["", "rcnn", "rpn"]),
)
def test_caps_of_a_config(cap: Any, table: Any, place: str) -> None:
    settings: dict[str, Any] = {"deploy_nms_pre": cap, "nms": table}
    for test_cfg in ({place: settings} if place else settings, {place: table}, table):
        cfg: Any = SimpleNamespace(model={"test_cfg": test_cfg})
        try:
            found = take_caps(cfg)
        except CommandError as error:
            assert "test_cfg" in str(error)
        else:
            assert all(type(number) is int and number > 0 for number in found.values())
