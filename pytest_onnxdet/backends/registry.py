"""The backends that a run can choose from, by name."""

from __future__ import annotations

import re

from pytest_onnxdet.backends.base import Backend
from pytest_onnxdet.core.registry import Registry


class BackendRegistry(Registry[Backend]):
    """Backends, unique by name and marker, kept in the order of registration."""

    def key(self, thing: Backend) -> str:
        """A backend's marker: ``-m`` could not distinguish two names of one marker."""
        return marker_name(thing.name)

    def duplicate(self, thing: Backend, present: Backend) -> ValueError:
        """The error for a second backend of one marker."""
        return ValueError(f"backend {present.name!r} is registered already: use another name")

    def register(self, thing: Backend) -> None:
        """Add ``thing``; raises ValueError where its name or its marker is taken."""
        if not self.key(thing).isidentifier():
            raise ValueError(f"backend name {thing.name!r} cannot be made a pytest marker")
        super().register(thing)

    def replace(self, backend: Backend) -> None:
        """Put ``backend`` in the place of the one of its name, for a built-in one of other options.

        Raises:
            ValueError: there is none of that name: a misspelt one would leave the other running.
        """
        if backend.name not in self.names():
            raise ValueError(
                f"no backend {backend.name!r} to replace; there are: "
                f"{', '.join(self.names()) or 'none'}"
            )
        self.entries[self.key(backend)] = backend

    def names(self) -> tuple[str, ...]:
        """Registered names, in order of registration."""
        return tuple(backend.name for backend in self)

    def as_dict(self) -> dict[str, Backend]:
        """The backends by name, in order of registration."""
        return {backend.name: backend for backend in self}


def marker_name(name: str) -> str:
    """A backend's name as a pytest marker: what ``-m`` cannot parse becomes an underscore."""
    return re.sub(r"\W+", "_", name).strip("_")
