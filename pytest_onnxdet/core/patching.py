"""Standing in for an object's attributes for the duration of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def overridden(owner: Any, **attributes: Any) -> Iterator[None]:
    """For the duration of the block, an object has other attributes of its own.

    Args:
        owner: an instance; what its class has stays as it is.
        attributes: by name.
    """
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    vars(owner).update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del vars(owner)[name]
        vars(owner).update(before)
