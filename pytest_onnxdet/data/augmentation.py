"""Test-time augmentation in a config's pipeline: what one graph does not do.

mmdet's test tool runs each view of an image, flipped or at another scale, and merges what it finds
(``aug_test``). A graph is one run, so the first view is what is compared and evaluated, and mmdet's
own figures for such a config are of something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Keys under which a pipeline's step lists the scales of its views.
SCALES = ("img_scale", "scale_factor")


def augmentation(pipeline: Iterable[Any]) -> str:
    """Which views a test pipeline makes of an image beyond the first; empty where none.

    Args:
        pipeline: a config's ``data.test.pipeline``: steps as mappings, or as they are made of them.

    Returns:
        ``flip``, ``2 scales`` or ``flip and 2 scales``.
    """
    for step in pipeline:
        if not isinstance(step, Mapping) or "transforms" not in step:
            continue
        views = []
        if step.get("flip"):
            views.append("flip")
        for key in SCALES:
            scales = step.get(key)
            if isinstance(scales, list) and len(scales) > 1:
                views.append(f"{len(scales)} scales")
        inner = augmentation(step["transforms"])
        if views or inner:
            return " and ".join(filter(None, [*views, inner]))
    return ""


def first_view(whose: str, views: str) -> str:
    """What is said of a pipeline that augments.

    Args:
        whose: the model or the config.
        views: what :func:`augmentation` gave.
    """
    return (
        f"{whose}: the test pipeline augments ({views}): only the first view of each image is run, "
        "in PyTorch too; mmdet's own test merges all of them and finds something else"
    )
