"""The range of shapes that an engine of a dynamic graph is built for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_onnxdet.backends.base import EngineError

if TYPE_CHECKING:
    from pytest_onnxdet.core.store import Artifact

Limits = tuple[int, int, int]

# Below this no detector of the zoo has a last level; with a smaller minimum nothing is gained.
MIN_SIZE = 64


@dataclass(frozen=True)
class Profile:
    """The shapes that an engine of a dynamic graph takes, each as (N, H, W).

    Attributes:
        min, max: the smallest and the largest shape, each included.
        opt: the shape that kernels are chosen for.
    """

    min: Limits
    opt: Limits
    max: Limits

    def __post_init__(self) -> None:
        rows = zip(self.min, self.opt, self.max, strict=True)
        if not all(0 < low <= middle <= high for low, middle, high in rows):
            raise ValueError(f"a profile needs min <= opt <= max, each from 1; got {self}")

    @classmethod
    def of(cls, artifact: Artifact) -> Profile | None:
        """The range to build for at first; None for a static graph.

        Up to the largest shape that the artifact will be fed, where its maker said so
        (:func:`pytest_onnxdet.backends.base.expecting`). Else up to the shape it was traced at,
        which may be smaller: full-size graphs are traced small. What a profile does not hold
        widens it, see :meth:`with_shape`, and that is a build in the middle of a run.
        """
        if artifact.static_shape is not None:
            return None
        known = artifact.info.get("largest_shape") or artifact.info.get("traced_shape")
        batch, _, height, width = known or (1, 3, 800, 1344)
        smallest = (1, min(MIN_SIZE, height), min(MIN_SIZE, width))
        return cls(smallest, (1, height, width), (batch, height, width))

    @classmethod
    def of_engine(cls, limits: Sequence[Sequence[int]]) -> Profile:
        """Of the min, opt and max shape (N, 3, H, W) that an engine was built for."""
        smallest, optimal, largest = ((int(n), int(h), int(w)) for n, _, h, w in limits)
        return cls(smallest, optimal, largest)

    def holds(self, shape: Limits) -> bool:
        """Whether an engine of this profile takes (N, H, W)."""
        rows = zip(self.min, shape, self.max, strict=True)
        return all(low <= value <= high for low, value, high in rows)

    def with_shape(self, shape: Limits) -> Profile:
        """The smallest profile that holds this one and (N, H, W)."""
        n, h, w = zip(self.min, shape, strict=True)
        smallest = (min(n), min(h), min(w))
        n, h, w = zip(self.max, shape, strict=True)
        return Profile(smallest, self.opt, (max(n), max(h), max(w)))

    def __str__(self) -> str:
        return " to ".join("x".join(map(str, part)) for part in (self.min, self.max))


def input_shapes(name: str, profile: Profile) -> tuple[tuple[int, ...], ...]:
    """Min, opt and max shape of an input of the graph's contract.

    Raises:
        EngineError: the contract has no such input.
    """
    limits = (profile.min, profile.opt, profile.max)
    if name == "input":
        return tuple((n, 3, h, w) for n, h, w in limits)
    if name == "image_shape":
        return tuple((n, 2) for n, _, _ in limits)
    raise EngineError(
        f"the graph's input {name!r} has no optimization profile; the contract has "
        "the inputs 'input' and 'image_shape'"
    )
