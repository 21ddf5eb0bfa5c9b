"""The models a run can choose from, by name and profile. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from .spec import ModelSpec


class DuplicateModel(ValueError):
    """A second spec of the same name and profile."""


class UnknownModel(LookupError):
    """A name or glob that no registered model of the profile answers to."""


class Registry:
    """Model specs, unique by (name, profile), kept in the order of registration."""

    def __init__(self, specs: Iterable[ModelSpec] = ()) -> None:
        self._specs: dict[tuple[str, str], ModelSpec] = {}
        for spec in specs:
            self.register(spec)

    def register(self, spec: ModelSpec) -> None:
        """Add ``spec``; raises `DuplicateModel` where its name and profile are taken."""
        key = (spec.name, spec.profile)
        if key in self._specs:
            raise DuplicateModel(
                f"model {spec.name!r} of profile {spec.profile!r} is registered already, from "
                f"{self._specs[key].config}: give the new one another name or profile"
            )
        self._specs[key] = spec

    def get(self, name: str, profile: str = "mini") -> ModelSpec:
        """The spec of that name and profile; raises `UnknownModel`."""
        try:
            return self._specs[name, profile]
        except KeyError:
            raise UnknownModel(self._missing(name, profile)) from None

    def names(self, profile: str) -> tuple[str, ...]:
        """Names of the profile's models, in order of registration."""
        return tuple(name for name, of in self._specs if of == profile)

    def profiles(self) -> tuple[str, ...]:
        """Profiles that have at least one model."""
        return tuple(dict.fromkeys(profile for _, profile in self._specs))

    def select(self, globs: Iterable[str], profile: str) -> tuple[ModelSpec, ...]:
        """The profile's models that match any of ``globs``; all of them when there is none.

        Raises `UnknownModel` for a glob that matches nothing, so that a misspelt name never
        silently selects fewer models.
        """
        patterns = tuple(globs)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.names(profile)):
                raise UnknownModel(self._missing(pattern, profile))
        if not patterns and not self.names(profile):
            raise UnknownModel(self._missing("*", profile))
        return tuple(
            spec
            for spec in self
            if spec.profile == profile
            and (not patterns or any(fnmatchcase(spec.name, pattern) for pattern in patterns))
        )

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self._specs.values())

    def __len__(self) -> int:
        return len(self._specs)

    def _missing(self, wanted: str, profile: str) -> str:
        names = self.names(profile)
        if not names:
            return f"no model of profile {profile!r}; profiles: {', '.join(self.profiles())}"
        return f"no model {wanted!r} of profile {profile!r}; there are: {', '.join(names)}"


def builtin_registry() -> Registry:
    """The minis that are trained, and the documented full-size detectors."""
    from .mini import mini_specs
    from .zoo import zoo_specs

    shipped = (spec for spec in mini_specs() if spec.weights and Path(spec.weights).is_file())
    return Registry((*shipped, *zoo_specs()))
