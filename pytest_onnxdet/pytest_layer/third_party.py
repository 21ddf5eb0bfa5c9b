"""Other packages' warnings: not this project's to mend, and no reason for a check to fail.

mmcv and mmdet announce the end of what they are, PyTorch that of its tracer. With ``-W error`` any
of these would end the check that happens to import or build first. They are left out, and shown
once, in pytest's own summary of warnings, with ``-v``. What this package notes of an input or of a
damaged cache entry is always shown there, and fails no check, either: the check goes on with what
the note says. Other warnings, of the project's conftest and of its tests, stay as the user's
filters say.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_onnxdet.core.notes import Note

#: What this package runs on. A warning belongs to the module that it is attributed to.
PACKAGES = (
    "hotcoco",
    "matplotlib",
    "mmcv",
    "mmdet",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxslim",
    "pycocotools",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
    "torchvision",
)
# Warnings of the compiler (an escape that is none) carry the file's path in place of a name.
_MODULE = (
    rf"({'|'.join(PACKAGES)})(\.|$)|.*[/\\](site|dist)-packages[/\\]({'|'.join(PACKAGES)})[/\\]"
)


def contain(verbose: bool) -> None:
    """Puts the filters in front of the others, until pytest restores them after the test.

    Args:
        verbose: show each of the other packages' once, rather than none.
    """
    warnings.filterwarnings("once" if verbose else "ignore", module=_MODULE)
    warnings.simplefilter("default", Note)


@contextmanager
def contained() -> Iterator[None]:
    """For the duration of the block, other packages' warnings are left out."""
    with warnings.catch_warnings():
        contain(verbose=False)
        yield
