"""The options of ``pytest --onnxdet`` and their ini twins, parsed once into ``Settings``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_onnxdet.core.vocabulary import CHECKS, DEFAULT_BATCHES, DEFAULT_PRECISION, SHAPES
from pytest_onnxdet.pytest_layer.option_list import OPTIONS
from pytest_onnxdet.pytest_layer.values import PATHS, Values, flag

if TYPE_CHECKING:
    from pytest_onnxdet.run.cases import Settings


def add_options(parser: pytest.Parser) -> None:
    """Registers ``--onnxdet``, the options and the ini keys."""
    group = parser.getgroup("onnxdet", "onnxdet: do exported detectors do what PyTorch does?")
    switch = (
        "Verify exported detectors. Without files or folders on the command line the shipped "
        "conformance suite is what runs. -m chooses by model, backend, shape mode (static, "
        f"dynamic), batch size (batch1, ...), check ({', '.join(CHECKS)}) and "
        "full-size models (full); pytest --onnxdet --markers lists all."
    )
    group.addoption("--onnxdet", action="store_true", default=None, help=switch)
    parser.addini("onnxdet", "Like --onnxdet on every command line.", type="bool", default=False)
    strict = (
        "Refuse a model whose test pipeline augments (flip, several scales): a graph is the first "
        "view of an image alone. Default: the header and the report say so."
    )
    group.addoption("--onnxdet-strict", action="store_true", default=None, help=strict)
    parser.addini("onnxdet_strict", "Like --onnxdet-strict.", type="bool", default=False)
    selftest = (
        "Verify the suite itself: put known faults into each model's good graph, one at a time, "
        "and fail where the checks do not see one that shows. 'quick' (default): every fault once, "
        "on 6 images; 'full': in up to 4 places, on all images. Batches of 3 and dynamic shapes "
        "unless --onnxdet-batch or --onnxdet-shape is given; nothing else is verified then."
    )
    group.addoption(
        "--onnxdet-selftest", nargs="?", const="quick", metavar="quick|full", help=selftest
    )
    parser.addini("onnxdet_selftest", "Like --onnxdet-selftest.", type="string", default="")
    for option in OPTIONS:
        group.addoption(
            flag(option.name),
            metavar=option.metavar,
            action="append" if option.many else "store",
            default=None,
            help=option.help,
        )
        text = f"Default of {flag(option.name)}."
        if option.many:
            parser.addini(f"onnxdet_{option.name}", text, type="args", default=[])
        else:
            parser.addini(f"onnxdet_{option.name}", text, type="string", default="")


def is_enabled(config: pytest.Config) -> bool:
    """Whether this run was asked to verify detectors."""
    value = config.getoption("onnxdet")
    return bool(config.getini("onnxdet") if value is None else value)


def _is_strict(config: pytest.Config) -> bool:
    value = config.getoption("onnxdet_strict")
    return bool(config.getini("onnxdet_strict") if value is None else value)


def read_settings(config: pytest.Config) -> Settings:
    """The request of this run; the command line wins over the ini file.

    Raises:
        pytest.UsageError: a value that cannot be used, with the form that can.
    """
    from pytest_onnxdet.core.paths import user_cache
    from pytest_onnxdet.core.vocabulary import NONE
    from pytest_onnxdet.models.own import OWN
    from pytest_onnxdet.models.structure import LIMIT
    from pytest_onnxdet.pytest_layer.own_models import own_models
    from pytest_onnxdet.run.cases import (
        SELFTEST_BATCH,
        SELFTEST_IMAGES,
        SELFTEST_PLACES,
        SELFTEST_QUICK,
        Settings,
    )

    values = Values(config)
    for option in OPTIONS:
        if option.metavar in PATHS:
            values.refuse_mistaken(option.name)
    random = values.text("checkpoints") == NONE
    limit = next(iter(values.numbers("limit")), None)
    selftest = next(iter(values.chosen("selftest", tuple(SELFTEST_PLACES))), "")
    if limit is None and selftest == SELFTEST_QUICK:
        limit = SELFTEST_IMAGES
    own = own_models(config, values)
    return Settings(
        cache=values.folder("cache") or user_cache(),
        own=own,
        models=values.words("model"),
        profile=values.word("profile") or (OWN if own else "mini"),
        backends=values.words("backend"),
        shapes=values.chosen("shape", SHAPES) or (("dynamic",) if selftest else SHAPES),
        batches=tuple(values.numbers("batch"))
        or ((SELFTEST_BATCH,) if selftest else DEFAULT_BATCHES),
        precisions=values.words("precision") or (DEFAULT_PRECISION,),
        checkpoints=None if random else values.folder("checkpoints", exists=True),
        random_weights=random,
        data=values.folder("data", exists=True),
        report=values.folder("report"),
        baseline=values.file("baseline"),
        limit=LIMIT if random and limit is None else limit,
        strict=_is_strict(config),
        selftest=selftest,
        case_timeout=values.seconds("case_timeout"),
    )
