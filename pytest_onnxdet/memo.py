"""What is made once and kept, for one owner at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Key = tuple[Any, ...]


class Memo:
    """Things by key, kept until another owner's are asked for.

    What could not be made is not tried again: a checkpoint that cannot be downloaded would be
    waited for in each of a model's tests. The same error is raised, without its earlier traceback.
    """

    def __init__(self) -> None:
        self._owner: object = None
        self._made: dict[Key, Any] = {}
        self._failed: dict[Key, Exception] = {}

    def get(self, owner: object, key: Key, make: Callable[[], T]) -> T:
        """The owner's thing of that key; of another owner nothing is kept.

        Raises:
            Exception: what ``make`` raised, now or the first time.
        """
        if owner is not self._owner:
            self.clear()
            self._owner = owner
        if key in self._failed:
            raise self._failed[key].with_traceback(None)
        if key not in self._made:
            try:
                self._made[key] = make()
            except Exception as error:
                self._failed[key] = error
                raise
        made: T = self._made[key]
        return made

    def forget(self, unwanted: Callable[[Key], bool]) -> None:
        """Lets go of the things of some keys."""
        for key in [key for key in self._made if unwanted(key)]:
            del self._made[key]

    def clear(self) -> None:
        """Lets go of everything, and closes the sessions among it."""
        from pytest_onnxdet.backends.base import Session

        for thing in self._made.values():
            if isinstance(thing, Session):
                thing.close()
        self._made.clear()
        self._failed.clear()
        self._owner = None
