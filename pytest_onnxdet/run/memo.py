"""A cache in memory of what one model's tests share, cleared when the next model comes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)
T = TypeVar("T")
Key = tuple[Any, ...]


class Memo:
    """Values by key, kept until another owner asks for one.

    What could not be made is not tried again: a checkpoint that cannot be downloaded would be
    waited for in each of a model's tests. An equal error is raised, with a traceback of its own.
    """

    def __init__(self) -> None:
        self._owner: object = None
        self._made: dict[Key, Any] = {}
        self._failed: dict[Key, Exception] = {}
        self._closing: dict[Key, Callable[[], None]] = {}

    def get(
        self,
        owner: object,
        key: Key,
        make: Callable[[], T],
        close: Callable[[T], None] | None = None,
    ) -> T:
        """The owner's value of that key; another owner's values are dropped first.

        Args:
            owner: whose it is, compared by identity.
            key: which of the owner's.
            make: makes it, the first time.
            close: ends it, when all values are dropped.

        Raises:
            Exception: what ``make`` raised, now or the first time.
        """
        if owner is not self._owner:
            self.clear()
            self._owner = owner
        if key in self._failed:
            raise without_frames(self._failed[key])
        if key not in self._made:
            try:
                self._made[key] = make()
            except Exception as error:
                self._failed[key] = without_frames(error)
                raise
            if close is not None:
                self._closing[key] = partial(close, self._made[key])
        made: T = self._made[key]
        return made

    def made(self, owner: object, key: Key) -> Any:
        """The owner's value of that key, None where it was not made."""
        return self._made.get(key) if owner is self._owner else None

    def forget(self, unwanted: Callable[[Key], bool]) -> None:
        """Drops the values of some keys."""
        for key in [key for key in self._made if unwanted(key)]:
            del self._made[key]
            self._closing.pop(key, None)

    def clear(self) -> None:
        """Drops all values, and closes those that were made with a ``close``."""
        for close in self._closing.values():
            close()
        self._closing.clear()
        self._made.clear()
        self._failed.clear()
        self._owner = None


def without_frames(error: E) -> E:
    """A copy without a traceback, and so of the causes: frames keep all of their arrays alive."""
    kind = type(error)
    if isinstance(kind.__init__, FunctionType):
        # Not called: it may build the message from its arguments, and args has that already.
        made = kind.__new__(kind, *error.args)
        made.args = error.args
    else:
        made = copy.copy(error)
    vars(made).update(vars(error))
    made.__cause__ = None if error.__cause__ is None else without_frames(error.__cause__)
    return made
