"""The options of ``pytest --onnxdet`` and their ini twins, parsed once into ``Settings``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_onnxdet.core.vocabulary import CHECKS, DEFAULT_BATCHES, DEFAULT_PRECISION, SHAPES
from pytest_onnxdet.pytest_layer.option_list import OPTIONS

if TYPE_CHECKING:
    from pytest_onnxdet.run.cases import Settings


#: What options with a path have as metavar.
PATHS = ("DIR", "FILE", "FILE|URL", "JSON|DIR")
#: Options with a folder that a run makes where it is missing.
MADE = ("cache", "report")
#: Where pytest looks for its ini options.
INI_FILES = ("pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


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
            f"--onnxdet-{option.name}",
            metavar=option.metavar,
            action="append" if option.many else "store",
            default=None,
            help=option.help,
        )
        text = f"Default of --onnxdet-{option.name}."
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
    from pytest_onnxdet.models.structure import LIMIT
    from pytest_onnxdet.pytest_layer.own_models import own_models
    from pytest_onnxdet.run.cases import (
        SELFTEST_BATCH,
        SELFTEST_IMAGES,
        SELFTEST_PLACES,
        SELFTEST_QUICK,
        Settings,
    )
    from pytest_onnxdet.run.own import OWN

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
    )


class Values:
    """Reads values of options, and knows where each came from."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def words(self, name: str) -> tuple[str, ...]:
        """A comma-separated list without repetitions; empty where the option is not set."""
        value = self._config.getoption(f"onnxdet_{name}")
        if value is None:
            texts = self._config.getini(f"onnxdet_{name}")
            value = None if texts in ("", []) else texts
        if value is None:
            return ()
        texts = [value] if isinstance(value, str) else value
        words = [word.strip() for text in texts for word in str(text).split(",")]
        words = list(dict.fromkeys(word for word in words if word))
        if not words:
            self.refuse(name, "an empty value", "leave the option out for its default")
        return tuple(words)

    def text(self, name: str) -> str | None:
        """The value of an option of one value, as it stands."""
        value = self._config.getoption(f"onnxdet_{name}")
        return value if value is not None else self._config.getini(f"onnxdet_{name}") or None

    def word(self, name: str) -> str | None:
        """One word, or None where the option is not set."""
        words = self.words(name)
        if len(words) > 1:
            self.refuse(name, repr(",".join(words)), "give one value")
        return words[0] if words else None

    def chosen(self, name: str, allowed: Sequence[str]) -> tuple[str, ...]:
        """A list of which every word is allowed."""
        words = self.words(name)
        for word in words:
            if word not in allowed:
                self.refuse(
                    name, repr(word), f"give a comma-separated list of: {', '.join(allowed)}"
                )
        return words

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers from 1."""
        words = self.words(name)
        for word in words:
            if not (word.isascii() and word.isdigit() and int(word) > 0):
                self.refuse(name, repr(word), "give whole numbers from 1, separated by commas")
        if name == "limit" and len(words) > 1:
            self.refuse(name, repr(",".join(words)), "give one whole number from 1")
        return list(dict.fromkeys(map(int, words)))

    def folder(self, name: str, exists: bool = False) -> Path | None:
        """A folder, None where the option is not set."""
        path = self.path(name, "a folder")
        if path is None:
            return None
        if exists and not path.is_dir():
            self.refuse(name, str(path), "there is no such folder")
        if path.exists() and not path.is_dir():
            self.refuse(name, str(path), "this is a file; give a folder")
        return path

    def file(self, name: str) -> Path | None:
        """A file that exists, None where the option is not set."""
        path = self.path(name, "a file")
        if path is not None and not path.is_file():
            self.refuse(name, str(path), "there is no such file")
        return path

    def path(self, name: str, form: str) -> Path | None:
        """From the command line relative to where pytest was called, else to the ini."""
        value = self._config.getoption(f"onnxdet_{name}")
        base = self._config.invocation_params.dir
        if value is None:
            value = self._config.getini(f"onnxdet_{name}") or None
            base = self._config.inipath.parent if self._config.inipath else base
        if value is None:
            return None
        if not value.strip():
            self.refuse(name, "an empty value", f"give {form}")
        return Path(os.path.abspath(base / os.path.expanduser(value)))

    def refuse_mistaken(self, name: str) -> None:
        """Refuses a folder that pytest takes for the place of the tests.

        Before any plugin is loaded, pytest looks for the ini file from the words of the command
        line that name something that exists. After ``--onnxdet-cache /x`` that is ``/x``, and
        the project's own ini file would silently not count. A folder that this run makes first is
        there when the workers of ``-n`` look, and in the next run.
        """
        if self._config.args_source is pytest.Config.ArgsSource.ARGS:
            return  # pytest looks from the tests that were named, too
        here = self._config.invocation_params.dir
        above = (here, *here.parents)
        if not any(_has_ini(folder) for folder in above):
            return
        ini_file = self._config.inipath
        is_read = ini_file is not None and ini_file.parent in above
        words = [str(word) for word in self._config.invocation_params.args]
        for option, word in pairwise(words):
            if option != f"--onnxdet-{name}":
                continue
            folder = Path(os.path.abspath(here / word))
            if folder.exists() and not is_read:
                raise pytest.UsageError(
                    f"{option} {word}: pytest took this folder for the place of the tests and "
                    f"read no ini file of this project; write {option}={word}"
                )
            nearest = next(filter(_has_ini, (folder, *folder.parents)), None)
            if name in MADE and not folder.exists() and nearest not in above:
                raise pytest.UsageError(
                    f"{option} {word}: once this folder is made, pytest takes it for the place of "
                    f"the tests and reads no ini file of this project; write {option}={word}"
                )

    def refuse(self, name: str, value: str, remedy: str) -> NoReturn:
        """Ends the run with a message that says where the value came from."""
        where = f"--onnxdet-{name}"
        if self._config.getoption(f"onnxdet_{name}") is None:
            where = f"onnxdet_{name} in {self._config.inipath}"
        raise pytest.UsageError(f"{where}: {value}: {remedy}")


def _has_ini(folder: Path) -> bool:
    """Whether a folder has a file that may hold pytest's ini options."""
    return any((folder / name).is_file() for name in INI_FILES)
