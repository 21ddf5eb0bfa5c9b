"""The models a run can choose from, by name and profile. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from pytest_onnxdet.core.registry import Registry
from pytest_onnxdet.models.spec import ModelSpec


class DuplicateModel(ValueError):
    """A second spec of the same name and profile."""


class UnknownModel(LookupError):
    """A name or glob that no registered model of the profile answers to."""


class ModelRegistry(Registry[ModelSpec]):
    """Model specs, unique by (name, profile), kept in the order of registration."""

    def key(self, thing: ModelSpec) -> tuple[str, str]:
        """A model's name and profile."""
        return thing.name, thing.profile

    def duplicate(self, thing: ModelSpec, present: ModelSpec) -> DuplicateModel:
        """The error for a second spec of one name and profile."""
        return DuplicateModel(
            f"model {thing.name!r} of profile {thing.profile!r} is registered already, from "
            f"{present.config}: give the new one another name or profile"
        )

    def get(self, name: str, profile: str = "mini") -> ModelSpec:
        """The spec of that name and profile; raises `UnknownModel`."""
        try:
            return self.entries[name, profile]
        except KeyError:
            raise UnknownModel(self._missing(name, profile)) from None

    def names(self, profile: str | None = None) -> tuple[str, ...]:
        """Names of the profile's models, of all without one, in order of registration."""
        return tuple(spec.name for spec in self if profile in (None, spec.profile))

    def profiles(self) -> tuple[str, ...]:
        """Profiles that have at least one model."""
        return tuple(dict.fromkeys(spec.profile for spec in self))

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

    def _missing(self, wanted: str, profile: str) -> str:
        names = self.names(profile)
        if not names:
            return f"no model of profile {profile!r}; profiles: {', '.join(self.profiles())}"
        return f"no model {wanted!r} of profile {profile!r}; there are: {', '.join(names)}"


def builtin_registry() -> ModelRegistry:
    """The minis that are trained, and the documented full-size detectors."""
    from pytest_onnxdet.models.mini import mini_specs
    from pytest_onnxdet.models.zoo import zoo_specs

    shipped = (spec for spec in mini_specs() if spec.weights and Path(spec.weights).is_file())
    return ModelRegistry((*shipped, *zoo_specs()))
