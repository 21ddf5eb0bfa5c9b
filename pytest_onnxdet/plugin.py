"""The pytest plugin: options, markers, cases, outcomes.

Without ``--onnxdet`` it hides the suite's tests and does nothing else; it then imports no more
than its options need, as every pytest run of an environment that it is installed in loads it.
With ``--onnxdet`` it makes the cases, parametrizes every test that takes an onnxdet fixture with
them, and at the end prints the summary and writes the report.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_onnxdet import options
from pytest_onnxdet.cases import (
    CHECKS,
    BackendRegistry,
    Case,
    Settings,
    SettingsError,
    choose_backends,
    choose_models,
    fixed_markers,
    make_cases,
    named_markers,
)
from pytest_onnxdet.fixtures import (  # noqa: F401  (pytest finds fixtures in this namespace)
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
from pytest_onnxdet.outcome import SUITE, Collector, case_of, check_of, judge

if TYPE_CHECKING:
    from pytest_onnxdet.data.datasets import DatasetRegistry

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Suite:
    """What an enabled run works with.

    Attributes:
        settings: the request.
        cases: every case, in order.
        missing: by backend name, why its cases are skipped.
        datasets: where data sets are looked up.
        collector: gathers the records.
    """

    settings: Settings
    cases: tuple[Case, ...]
    missing: dict[str, str]
    datasets: DatasetRegistry
    collector: Collector


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
    """Registers the markers; in an enabled run makes the cases and chooses what is collected."""
    _register(config, fixed_markers())
    if not options.is_enabled(config):
        return
    settings = options.read_settings(config)
    try:
        suite = _make_suite(config, settings)
    except (SettingsError, ValueError, LookupError) as error:
        raise pytest.UsageError(f"onnxdet: {error}") from error
    config.stash[SUITE] = suite
    config.pluginmanager.register(suite.collector, "onnxdet-collector")
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(conformance_folder())]


def _make_suite(config: pytest.Config, settings: Settings) -> Suite:
    """Asks the hooks what there is, and the settings what of it is wanted."""
    from pytest_onnxdet.backends import builtin_backends
    from pytest_onnxdet.data.datasets import builtin_datasets
    from pytest_onnxdet.models.registry import builtin_registry

    models, datasets = builtin_registry(), builtin_datasets()
    backends = BackendRegistry(builtin_backends().values())
    if settings.data is not None:
        _add_coco(datasets, settings.data)
    config.hook.pytest_onnxdet_models(registry=models)
    config.hook.pytest_onnxdet_backends(registry=backends)
    config.hook.pytest_onnxdet_datasets(registry=datasets)
    specs = choose_models(settings, models)
    chosen, missing = choose_backends(settings, backends.as_dict())
    _require_datasets((spec.dataset for spec in specs), datasets)
    cases = make_cases(settings, specs, chosen)
    names = [spec.name for spec in models]
    _register(config, named_markers(names, backends.as_dict(), settings.batches))
    _require_writable(settings.cache, "--onnxdet-cache")
    if settings.report is not None:
        _require_writable(settings.report, "--onnxdet-report")
    return Suite(settings, cases, missing, datasets, Collector(cases))


def _register(config: pytest.Config, markers: dict[str, str]) -> None:
    for name, text in markers.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def _add_coco(datasets: DatasetRegistry, folder: Path) -> None:
    """The full-size models' data set, from the folder that was given."""
    from pytest_onnxdet.cases import COCO, COCO_FILES
    from pytest_onnxdet.data.datasets import DatasetSpec
    from pytest_onnxdet.models.zoo import COCO_CLASSES

    annotations, images = (folder / name for name in COCO_FILES)
    for path in (annotations, images):
        if not path.exists():
            raise pytest.UsageError(f"--onnxdet-data: there is no {path}")
    datasets.register(DatasetSpec(COCO, annotations, images, classes=COCO_CLASSES))


def _require_datasets(names: Iterable[str], datasets: DatasetRegistry) -> None:
    """A model whose data set nobody registered is a mistake in the request."""
    for name in dict.fromkeys(names):
        if name not in datasets.names():
            raise pytest.UsageError(
                f"onnxdet: no data set {name!r}; there are: {', '.join(datasets.names())}. The "
                "full-size models' one comes with --onnxdet-data DIR, another with the hook "
                "pytest_onnxdet_datasets"
            )


def _require_writable(folder: Path, option: str) -> None:
    """Finds out now rather than after the run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise pytest.UsageError(f"{option}: {folder} cannot be written to: {reason}") from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Says what is about to be verified."""
    suite = config.stash.get(SUITE, None)
    if suite is None:
        return []
    axes: dict[str, set[Any]] = {
        "models": {case.spec.name for case in suite.cases},
        "backends": {case.backend.name for case in suite.cases},
        "shapes": {case.shape for case in suite.cases},
        "batch sizes": {case.batch for case in suite.cases},
    }
    counts = ", ".join(f"{len(values)} {name}" for name, values in axes.items())
    lines = [f"onnxdet: {len(suite.cases)} cases of profile {suite.settings.profile} ({counts})"]
    if suite.settings.limit is not None:
        lines.append(f"onnxdet: only the first {suite.settings.limit} images")
    return lines


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves the shipped tests alone in a run that did not ask for them."""
    if SUITE not in config.stash and collection_path.parent == conformance_folder():
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs every test that takes an onnxdet fixture once for each case."""
    suite = metafunc.config.stash.get(SUITE, None)
    if suite is None or "onnxdet_case" not in metafunc.fixturenames:
        return
    building = metafunc.definition.get_closest_marker("build") is not None
    running = "onnxdet_session" in metafunc.fixturenames
    params = []
    for case in suite.cases:
        if building and not case.backend.builds:
            continue
        marks = [getattr(pytest.mark, name) for name in case.markers]
        why = suite.missing.get(case.backend.name)
        if why is None and running:
            why = case.backend.unrunnable()
        if why is not None:
            marks.append(pytest.mark.skip(reason=why))
        params.append(pytest.param(case, id=case.id, marks=marks))
    metafunc.parametrize("onnxdet_case", params, indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drops the suite's tests from a run that did not ask for it, else orders them by case."""
    suite = config.stash.get(SUITE, None)
    if suite is None:
        folder = conformance_folder()
        dropped = [
            item
            for item in items
            if "onnxdet_case" in getattr(item, "fixturenames", ()) or item.path.parent == folder
        ]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            gone = set(dropped)
            items[:] = [item for item in items if item not in gone]
        return
    # A build test has no case where no chosen backend builds.
    idle = [item for item in items if check_of(item) == "build" and case_of(item) is None]
    if idle:
        config.hook.pytest_deselected(items=idle)
        items[:] = [item for item in items if item not in idle]
    # By case, so that one detector at a time is in memory; by check, so that a graph that does
    # not export is the first thing reported. Other tests keep their places.
    order = {id(case): place for place, case in enumerate(suite.cases)}
    ranks = {check: place for place, check in enumerate(CHECKS)}
    places = [place for place, item in enumerate(items) if case_of(item) is not None]
    ordered = sorted(
        (items[place] for place in places),
        key=lambda item: (order[id(case_of(item))], ranks.get(check_of(item) or "", len(ranks))),
    )
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Makes a clean message, and a record, of what became of a case."""
    report = yield
    if SUITE in item.config.stash:
        judge(item, call, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the report; a run that was to verify something and did not is not a success."""
    config = session.config
    suite = config.stash.get(SUITE, None)
    if suite is None or hasattr(config, "workerinput") or config.getoption("collectonly"):
        return
    records = suite.collector.records()
    if suite.settings.report is not None:
        from pytest_onnxdet import report

        try:
            report.write_report(records, report.environment(), suite.settings.report)
        except report.ReportError as error:
            raise pytest.UsageError(str(error)) from error
    ran = [record for record in records if record.outcome != "skipped"]
    if not ran and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints the tables, the reasons and where the report lies."""
    suite = config.stash.get(SUITE, None)
    if suite is None or config.getoption("collectonly"):
        return
    from pytest_onnxdet import report

    terminalreporter.section("onnxdet")
    for line, markup in report.summary_lines(suite.collector.records(), report.environment()):
        terminalreporter.write_line(line, **markup)
    if suite.settings.report is not None:
        where = os.path.relpath(suite.settings.report, config.invocation_params.dir)
        terminalreporter.write_line(f"Report: {where}")
