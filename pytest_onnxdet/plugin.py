"""The pytest plugin, as far as every pytest run loads it.

Without ``--onnxdet`` it hides the suite's tests and does nothing else; it then imports no more
than its options need. With ``--onnxdet`` it hands over to
:mod:`pytest_onnxdet.pytest_layer.collect`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_onnxdet.core.vocabulary import fixed_markers
from pytest_onnxdet.pytest_layer import options
from pytest_onnxdet.pytest_layer.fixtures import (  # noqa: F401  (pytest finds fixtures in this namespace)
    onnxdet_artifact,
    onnxdet_case,
    onnxdet_dataset,
    onnxdet_found,
    onnxdet_images,
    onnxdet_model,
    onnxdet_record,
    onnxdet_reference,
    onnxdet_session,
    onnxdet_workbench,
)

#: What ``--onnxdet-selftest`` runs, and nothing else does.
SELFTEST = "test_selftest.py"
_HERE = Path(__file__).resolve().parent


def conformance_folder() -> Path:
    """The shipped tests: inside the installed package, or beside it in a checkout."""
    inside = _HERE / "conformance"
    return inside if inside.is_dir() else _HERE.parent / "conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Adds the hooks that other repositories implement."""
    from pytest_onnxdet import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(trylast=True)  # after plugins that register others, which may implement our hooks
def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers; starts an enabled run and chooses what it collects."""
    for name, text in fixed_markers().items():
        config.addinivalue_line("markers", f"{name}: {text}")
    if not options.is_enabled(config):
        config.pluginmanager.register(_Hidden(), "onnxdet-hidden")
        return
    from pytest_onnxdet.pytest_layer.collect import start

    place = conformance_folder()
    if start(config).selftest:
        place /= SELFTEST
    else:
        config.pluginmanager.register(_WithoutSelfTest(), "onnxdet-without-selftest")
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(place)]


class _WithoutSelfTest:
    """Keeps the self-test out of a run that did not ask for it."""

    def __init__(self) -> None:
        self._file = conformance_folder() / SELFTEST

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Passes over the self-test."""
        return True if collection_path == self._file else None


class _Hidden:
    """Keeps the suite's tests out of a run that did not ask for them."""

    def __init__(self) -> None:
        self._folder = conformance_folder()

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Passes over the shipped tests."""
        return True if collection_path.parent == self._folder else None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Drops tests of cases, and shipped tests that were named on the command line."""
        dropped: list[pytest.Item] = []
        others: list[pytest.Item] = []
        for item in items:
            of_suite = "onnxdet_case" in getattr(item, "fixturenames", ())
            (dropped if of_suite or item.path.parent == self._folder else others).append(item)
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = others
