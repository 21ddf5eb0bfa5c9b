"""What could not be made is told again, and holds nothing of the attempt."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from pytest_onnxdet.run.memo import Memo


class Array:
    """Stands for what takes memory."""


class Worded(Exception):
    def __init__(self, name: str, *, stage: str) -> None:
        super().__init__(f"no {name}")
        self.stage = stage


def undecodable() -> Any:
    return b"\xff".decode()


def unfound() -> Any:
    raise Worded("net", stage="build")


def caused() -> Any:
    try:
        undecodable()
    except UnicodeDecodeError as error:
        raise RuntimeError("no text") from error


def missing() -> Any:
    Path("/no/such/file").read_bytes()


@pytest.mark.parametrize("make", [undecodable, unfound, caused, missing])
def test_the_error_is_raised_again_as_it_was(make: Any) -> None:
    memo, tries = Memo(), []

    def attempt() -> Any:
        tries.append(make)
        return make()

    raised = []
    for _ in range(3):
        with pytest.raises(Exception) as caught:
            memo.get("owner", ("key",), attempt)
        raised.append(caught.value)
    assert len(tries) == 1
    first, *others = raised
    for other in others:
        assert type(other) is type(first)
        assert (str(other), other.args, vars(other)) == (str(first), first.args, vars(first))
        assert repr(other.__cause__) == repr(first.__cause__)
    # The first traceback leads to where it went wrong.
    assert first.__traceback__ is not None and first.__traceback__.tb_next.tb_next is not None


@pytest.mark.parametrize("again", [False, True])
def test_a_kept_error_keeps_nothing_of_the_attempt_alive(again: bool) -> None:
    memo, seen = Memo(), []

    def make() -> Any:
        array = Array()
        seen.append(weakref.ref(array))
        try:
            raise ValueError(len(seen))
        except ValueError as error:
            raise RuntimeError("does not fit") from error

    def ask() -> None:
        own = Array()
        seen.append(weakref.ref(own))
        memo.get("owner", ("key",), make)

    for _ in range(1 + again):
        try:
            ask()
        except RuntimeError as error:
            assert str(error) == "does not fit"
    gc.collect()
    assert [one() for one in seen] == [None] * (2 + again)


def test_what_is_to_be_closed_is_closed_with_its_owner() -> None:
    memo, closed = Memo(), []
    for key in ("a", "b"):
        memo.get("one", (key,), lambda key=key: key, close=closed.append)
    memo.get("one", ("a",), lambda: "another", close=closed.append)
    memo.forget(lambda key: key == ("b",))
    assert closed == []
    memo.get("two", ("a",), lambda: "a")
    assert closed == ["a"]
    memo.clear()
    assert closed == ["a"]
