"""What is raised on purpose: the message is the whole story, and it names the stage to blame."""

from __future__ import annotations


class StageError(Exception):
    """A stage of a case fails, or cannot be begun.

    Attributes:
        stage: the stage that reports blame: ``build``, ``data``, ``lowering``, ``export``,
            ``cache``, ``runtime``, or the check that failed.
    """

    stage: str = ""
