"""What is raised where an operator needs a later opset."""

from __future__ import annotations


class NeedsOpset(Exception):
    """A graph cannot be exact at the asked-for opset.

    Attributes:
        min_opset: the lowest opset that works.
    """

    def __init__(self, min_opset: int, reason: str) -> None:
        super().__init__(reason)
        self.min_opset = min_opset
