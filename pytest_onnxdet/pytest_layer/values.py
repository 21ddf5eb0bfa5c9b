"""Values of the options and their ini twins, as the command line or the ini file has them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_onnxdet.core.files import no_file

#: What options with a path have as metavar.
PATHS = ("DIR", "FILE", "FILE|URL", "JSON|DIR")
#: Options with a folder that a run makes where it is missing.
MADE = ("cache", "report")
_DIGITS = 9  # of a number; Python takes no text of thousands for one
#: Where pytest looks for its ini options.
INI_FILES = ("pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


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
        return value if value is not None else self._of_ini(name)

    def _of_ini(self, name: str) -> str | None:
        """The ini file's value of an option of one value; pyproject.toml may hold anything."""
        value = self._config.getini(f"onnxdet_{name}")
        if value and not isinstance(value, str):
            self.refuse(name, repr(value), "give one text")
        return value or None

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
            plain = word.isascii() and word.isdigit() and len(word) <= _DIGITS
            if not plain or int(word) < 1:
                self.refuse(name, repr(word[:40]), "give whole numbers from 1, separated by commas")
        if name == "limit" and len(words) > 1:
            self.refuse(name, repr(",".join(words)), "give one whole number from 1")
        return list(dict.fromkeys(map(int, words)))

    def seconds(self, name: str) -> float | None:
        """A time above 0, None where the option is not set."""
        word = self.word(name)
        if word is None:
            return None
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            self.refuse(name, repr(word), "give a number of seconds above 0")
        return value

    def folder(self, name: str, exists: bool = False) -> Path | None:
        """A folder, None where the option is not set."""
        path = self.path(name, "a folder")
        if path is None:
            return None
        if exists and not path.exists():
            self.refuse(name, str(path), "there is no such folder")
        if path.exists() and not path.is_dir():
            self.refuse(name, str(path), "this is a file; give a folder")
        return path

    def file(self, name: str) -> Path | None:
        """A file that exists, None where the option is not set."""
        path = self.path(name, "a file")
        if path is not None and (kind := no_file(path)):
            self.refuse(name, str(path), f"this is {kind}; give a file")
        if path is not None and not path.is_file():
            self.refuse(name, str(path), "there is no such file")
        return path

    def path(self, name: str, form: str) -> Path | None:
        """From the command line relative to where pytest was called, else to the ini."""
        value = self._config.getoption(f"onnxdet_{name}")
        base = self._config.invocation_params.dir
        if value is None:
            value = self._of_ini(name)
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
        where = flag(name)
        if self._config.getoption(f"onnxdet_{name}") is None:
            where = f"onnxdet_{name} in {self._config.inipath}"
        raise pytest.UsageError(f"{where}: {value}: {remedy}")


def flag(name: str) -> str:
    """An option as it is typed."""
    return f"--onnxdet-{name.replace('_', '-')}"


def _has_ini(folder: Path) -> bool:
    """Whether a folder has a file that may hold pytest's ini options."""
    return any((folder / name).is_file() for name in INI_FILES)
