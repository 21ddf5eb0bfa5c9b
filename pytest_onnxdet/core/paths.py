"""Where this package keeps what outlives a run."""

from __future__ import annotations

from pathlib import Path


def user_cache() -> Path:
    """``$XDG_CACHE_HOME/pytest-onnxdet``, which must be absolute to count, or ``~/.cache/…``."""
    # Imported where a folder is asked for: pytest runs without the suite never do. The same folder
    # on every system, and from 4.14.7 on known to pass over a relative one.
    from platformdirs.unix import Unix

    return Unix("pytest-onnxdet", appauthor=False).user_cache_path
