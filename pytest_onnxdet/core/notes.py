"""What a user should know of an input that is used all the same: said once, never in silence.

A note is a Python warning of its own kind: pytest lists it at the end of a run, the commands print
it as ``warning: …``. The suite does not make an error of it, whatever the filters say.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Note(UserWarning):
    """What an input does not do though it seems to, or a cache entry that is damaged."""


def note(text: str) -> None:
    """Says something once."""
    warnings.warn(text, Note, stacklevel=2)


@contextmanager
def notes_printed() -> Iterator[None]:
    """For the duration of the block, notes go to stderr, one line each, each text once."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", Note)
        other = warnings.showwarning

        def show(message: Any, category: Any, *where: Any, **more: Any) -> None:
            if not issubclass(category, Note):
                other(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                print(f"warning: {message}", file=sys.stderr, flush=True)

        warnings.showwarning = show
        yield
