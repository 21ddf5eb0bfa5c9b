"""The data set inside a config's ``data.test``, where that is a list or a wrapper of data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Where ``load_config`` notes what ``data.test`` was before it became one data set.
TAKEN_FROM = "test_taken_from"


class SeveralDataSets(ValueError):
    """The data sets of ``data.test`` differ in what an export needs; the message says in what."""


@dataclass(frozen=True)
class Inner:
    """What is inside of ``data.test``.

    Attributes:
        data: the settings of the data set, or of the first of several that prepare images alike.
        wrapper: what it was in, ``a RepeatDataset`` or ``a list``; empty where in nothing.
        count: how many data sets there are.
    """

    data: Any
    wrapper: str
    count: int


def inner(test: Any) -> Inner:
    """The data set whose pipeline and classes an export uses.

    Args:
        test: a config's ``data.test``: a data set, a wrapper with ``dataset`` (RepeatDataset,
            ClassBalancedDataset) or ``datasets`` (ConcatDataset), a list of these, or a data set
            whose ``ann_file`` is a list.

    Raises:
        SeveralDataSets: there are several that differ in their pipeline or classes.
    """
    leaves = list(_leaves(test))
    if isinstance(test, list | tuple):
        wrapper = "a list"
    elif leaves and leaves[0] is not test:
        wrapper = f"a {test.get('type')}" if "ann_file" not in test else "one with several files"
    else:
        wrapper = ""
    if not leaves:
        return Inner(test, "", 0)
    for key in ("pipeline", "classes", "type"):
        if any(one.get(key) != leaves[0].get(key) for one in leaves):
            what = {"type": "classes, as their types do"}.get(key, key)
            if key == "type" and "classes" in leaves[0]:
                continue
            raise SeveralDataSets(
                f"data.test is {wrapper} of {len(leaves)} data sets that differ in their {what}: "
                "set data.test to the one that the model is for"
            )
    return Inner(leaves[0], wrapper, len(leaves))


def _leaves(test: Any) -> Iterator[Any]:
    if isinstance(test, list | tuple):
        for one in test:
            yield from _leaves(one)
    elif isinstance(test, Mapping):
        files = test.get("ann_file")
        if "pipeline" not in test and isinstance(test.get("datasets"), list | tuple):
            yield from _leaves(test["datasets"])
        elif "pipeline" not in test and isinstance(test.get("dataset"), Mapping | list | tuple):
            yield from _leaves(test["dataset"])
        elif isinstance(files, list | tuple):
            for number in range(len(files)):
                yield _numbered(test, number)
        else:
            yield test


def _numbered(test: Any, number: int) -> Any:
    """One of the data sets that mmdet makes of lists of files."""
    own = {key: value for key, value in test.items() if key != "separate_eval"}
    for key in ("ann_file", "img_prefix", "seg_prefix", "proposal_file"):
        if isinstance(own.get(key), list | tuple):
            own[key] = own[key][number]
    return type(test)(own)
