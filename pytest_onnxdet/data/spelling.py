"""Names that are one to a reader and two to mmdet."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def alike(names: Iterable[str], others: Iterable[str]) -> str:
    """Which name is one of the others in another spelling, as a clause; empty where none is.

    mmdet compares names letter by letter.

    Args:
        names: that are none of ``others``.
        others: what they may have been meant for.
    """
    known = {_plain(other): other for other in others}
    for name in names:
        other = known.get(_plain(name))
        if other is None or other == name:
            continue
        case = name.casefold() == other.casefold()
        how = "upper and lower case" if case else "spelling (spaces, signs, forms of letters)"
        return f"{name!r} and {other!r} differ in {how} alone, which mmdet tells apart"
    return ""


def _plain(name: str) -> str:
    """What is left of a name without what differs between two ways to write it."""
    return "".join(c for c in unicodedata.normalize("NFKD", name).casefold() if c.isalnum())
