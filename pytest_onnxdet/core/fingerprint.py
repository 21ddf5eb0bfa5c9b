"""A tensor in five numbers, by which it is known again in another computation.

Two tensors are compared without both of them lying in memory: random weights are given to the
elements, always the same ones, and the weighted sums are compared. Sums of elements that differ by
rounding differ by about its root mean square (Johnson and Lindenstrauss, 1984).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SUMS, _CHUNK = 3, 4096


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a tensor; its shape is not, so that a Reshape changes nothing.

    Attributes:
        size: how many elements.
        sums: weighted sums of them, in their order.
        norm: the root of the sum of their squares.
        plain: whether all are equal, or there are few: another tensor may be the same by chance.
        exact: whether they are integers or booleans.
    """

    size: int
    sums: tuple[float, ...]
    norm: float
    plain: bool
    exact: bool

    @classmethod
    def of(cls, values: NDArray[Any]) -> Fingerprint:
        """The fingerprint of an array of numbers."""
        flat = np.asarray(values).reshape(-1)
        exact = flat.dtype.kind in "iub"
        numbers = np.nan_to_num(flat.astype(np.float64), nan=1e3, posinf=2e3, neginf=-2e3)
        chunks = -(-max(1, len(numbers)) // _CHUNK)
        padded = np.zeros(chunks * _CHUNK)
        padded[: len(numbers)] = numbers
        inner, outer = _weights(chunks)
        sums = ((padded.reshape(chunks, _CHUNK) @ inner) * outer).sum(axis=0)
        plain = len(numbers) < 8 or bool((numbers == numbers[0]).all())
        norm = float(np.sqrt((numbers * numbers).sum()))
        return cls(len(numbers), tuple(float(s) for s in sums), norm, plain, exact)

    def distance(self, other: Fingerprint) -> float:
        """About the root of the sum of squared differences; infinite for another size."""
        if self.size != other.size:
            return float("inf")
        return max(abs(a - b) for a, b in zip(self.sums, other.sums, strict=True))


def _weights(chunks: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (4096, 3) within a chunk, and (chunks, 3) of chunks."""
    return _inner(), _outer(1 << (chunks - 1).bit_length())[:chunks]


@functools.cache
def _inner() -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((_CHUNK, _SUMS))


@functools.cache
def _outer(chunks: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).standard_normal((chunks, _SUMS))
