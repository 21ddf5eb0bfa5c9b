"""What a run can choose from, by name."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Things, unique by :meth:`key`, in the order of registration.

    Attributes:
        entries: the things by their keys; for subclasses.
    """

    def __init__(self, things: Iterable[T] = ()) -> None:
        self.entries: dict[Hashable, T] = {}
        for thing in things:
            self.register(thing)

    def key(self, thing: T) -> Hashable:
        """What a thing is unique by: its name, where a subclass does not say otherwise."""
        name: Any = thing
        return name.name

    def duplicate(self, thing: T, present: T) -> Exception:
        """What is raised for a thing whose key ``present`` has; a ``ValueError``."""
        return ValueError(f"{self.key(thing)!r} is registered already: use another name")

    def register(self, thing: T) -> None:
        """Add ``thing``; raises what :meth:`duplicate` gives where its key is taken."""
        key = self.key(thing)
        if key in self.entries:
            raise self.duplicate(thing, self.entries[key])
        self.entries[key] = thing

    def names(self) -> tuple[str, ...]:
        """The keys as texts, in order of registration."""
        return tuple(map(str, self.entries))

    def __iter__(self) -> Iterator[T]:
        return iter(self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)
