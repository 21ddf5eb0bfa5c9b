"""Numbers that people write into files."""

from __future__ import annotations

import sys
from typing import Any


def is_number(value: Any) -> bool:
    """Whether it is a number that a float holds: none of NaN, Infinity, true and 10 ** 400."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) <= sys.float_info.max
