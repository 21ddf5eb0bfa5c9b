"""A user's own detectors, as the command line and pyproject.toml name them."""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_onnxdet.core.files import no_file
from pytest_onnxdet.core.numbers import is_number
from pytest_onnxdet.models.own import OWN, OwnModel
from pytest_onnxdet.models.spec import KnownFailure, Tolerance, is_name

if TYPE_CHECKING:
    from pytest_onnxdet.pytest_layer.values import Values

_FILE = "pyproject.toml"
_TABLE = "tool.pytest-onnxdet.models"
_PATHS = ("config", "images", "annotations")


def own_models(config: pytest.Config, values: Values) -> tuple[OwnModel, ...]:
    """The detector of ``--onnxdet-config``, else those of pyproject.toml.

    Raises:
        pytest.UsageError: something is missing, unknown, or not of its form.
    """
    file = values.file("config")
    if file is None:
        for name in ("checkpoint", "images", "annotations"):
            if values.text(name) is not None:
                values.refuse(name, str(values.text(name)), "give --onnxdet-config, too")
        return _of_table(config)
    profile = values.word("profile")
    if profile not in (None, OWN):
        values.refuse("profile", profile or "", "leave it out beside --onnxdet-config")
    checkpoint = values.text("checkpoint")
    if checkpoint is not None and "://" not in checkpoint:
        checkpoint = str(values.file("checkpoint"))
    annotations = values.path("annotations", "a COCO json, or a folder of Pascal VOC's form")
    if annotations is not None and not annotations.exists():
        values.refuse("annotations", str(annotations), "there is no such file or folder")
    return (OwnModel(file, checkpoint, values.folder("images", exists=True), annotations),)


def _of_table(config: pytest.Config) -> tuple[OwnModel, ...]:
    path = config.rootpath / _FILE
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        try:
            document: Any = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise pytest.UsageError(f"{path}: {error}") from error
    tool = document.get("tool", {})
    if "pytest_onnxdet" in tool:
        raise pytest.UsageError(f"{path}: [tool.pytest_onnxdet]: write [{_TABLE}.NAME]")
    own = tool.get("pytest-onnxdet", {"models": None})
    form = f"give a table [{_TABLE}.NAME] for each detector, with config and checkpoint"
    if not isinstance(own, Mapping) or set(own) != {"models"}:
        what = ", ".join(map(repr, own)) if isinstance(own, Mapping) else repr(own)
        raise pytest.UsageError(f"{path}: [tool.pytest-onnxdet] holds {what or 'nothing'}: {form}")
    tables = own["models"]
    if tables is None:
        return ()
    if not isinstance(tables, Mapping) or not tables:
        raise pytest.UsageError(f"{path}: [{_TABLE}] is {tables!r}: {form}")
    return tuple(_Table(path, name, table).model() for name, table in tables.items())


class _Table:
    """One table ``[tool.pytest-onnxdet.models.NAME]``."""

    def __init__(self, path: Path, name: str, table: Any) -> None:
        self._path, self._name = path, name
        if not isinstance(table, Mapping):
            self._refuse("", "give a table with config and checkpoint")
        self._table = table

    def model(self) -> OwnModel:
        known = {field.name for field in fields(OwnModel)} - {"name"}
        self._require_known("", self._table, known)
        if not is_name(self._name):
            self._refuse(
                "",
                "a name is letters, digits and underscores and starts with a letter, as it is a "
                "marker, too",
            )
        if "config" not in self._table:
            self._refuse("", "config is missing")
        config, images, annotations = (self._place(key) for key in _PATHS)
        assert config is not None
        checkpoint = self._text("checkpoint")
        if checkpoint is not None and "://" not in checkpoint:
            checkpoint = str(self._place("checkpoint"))
        return OwnModel(
            config,
            checkpoint,
            images,
            annotations,
            name=self._name,
            tolerances=self._tolerances(),
            known_failures=self._known_failures(),
        )

    def _text(self, key: str) -> str | None:
        value = self._table.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            self._refuse(key, f"{value!r}: give a text")
        return value

    def _place(self, key: str) -> Path | None:
        """A file or folder, relative to the file's own folder."""
        text = self._text(key)
        if text is None:
            return None
        path = Path(os.path.abspath(self._path.parent / os.path.expanduser(text)))
        if not path.exists():
            self._refuse(key, f"there is no {path}")
        if (kind := no_file(path)) not in ("", "a folder"):
            self._refuse(key, f"{path} is {kind}: give a file")
        return path

    def _tolerances(self) -> dict[str, Tolerance]:
        tables = self._table.get("tolerances", {})
        if not isinstance(tables, Mapping):
            self._refuse("tolerances", "give a table by backend: tolerances.onnxruntime.box_px")
        made = {}
        for backend, table in tables.items():
            key = f"tolerances.{backend}"
            if not isinstance(table, Mapping):
                self._refuse(key, "give a table, as of box_px and reason")
            self._require_known(key, table, {field.name for field in fields(Tolerance)})
            if not table.get("reason"):
                self._refuse(key, "reason is missing: why is it wider?")
            for name, value in table.items():
                if name != "reason" and not (is_number(value) and value >= 0):
                    self._refuse(key, f"{name} is {value!r}: give a number from 0")
            made[backend] = Tolerance(**table)
        return made

    def _known_failures(self) -> tuple[KnownFailure, ...]:
        tables = self._table.get("known_failures", [])
        if not isinstance(tables, list) or not all(isinstance(one, Mapping) for one in tables):
            self._refuse("known_failures", "give a list of tables")
        made = []
        for number, table in enumerate(tables):
            key = f"known_failures[{number}]"
            self._require_known(key, table, {field.name for field in fields(KnownFailure)})
            for name in ("check", "reason", "issue", "expires"):
                if not table.get(name):
                    self._refuse(key, f"{name} is missing")
            day = table["expires"]
            if isinstance(day, str):
                with contextlib.suppress(ValueError):
                    day = date.fromisoformat(day)
            if isinstance(day, datetime):
                day = day.date()
            if not isinstance(day, date):
                self._refuse(key, f"expires is {day!r}: give a day, as 2030-01-31")
            made.append(KnownFailure(**{**table, "issue": str(table["issue"]), "expires": day}))
        return tuple(made)

    def _require_known(self, key: str, table: Mapping[str, Any], known: set[str]) -> None:
        for name in table:
            if name not in known:
                self._refuse(key, f"no key {name!r}; there are: {', '.join(sorted(known))}")

    def _refuse(self, key: str, why: str) -> NoReturn:
        where = f"[{_TABLE}.{self._name}]{' ' if key else ''}{key}"
        raise pytest.UsageError(f"{self._path}: {where}: {why}")
