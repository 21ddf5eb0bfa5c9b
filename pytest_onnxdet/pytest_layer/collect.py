"""An enabled run: its cases, and how tests are run for them.

Only a run with ``--onnxdet`` imports this module.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_onnxdet.backends.registry import BackendRegistry
from pytest_onnxdet.core.progress import show_uncaptured
from pytest_onnxdet.core.vocabulary import CHECKS, COCO, COCO_FILES, FULL
from pytest_onnxdet.pytest_layer.case_timeout import CaseTimeout
from pytest_onnxdet.pytest_layer.known_failures import (
    excuse,
    refuse_expired,
    require_matching,
)
from pytest_onnxdet.pytest_layer.options import read_settings
from pytest_onnxdet.pytest_layer.outcome import Collector, case_of, check_of, judge
from pytest_onnxdet.pytest_layer.reporting import Reporter
from pytest_onnxdet.pytest_layer.stash import SUITE, Suite
from pytest_onnxdet.pytest_layer.third_party import contain, contained
from pytest_onnxdet.run.cases import (
    Settings,
    SettingsError,
    choose_backends,
    choose_models,
    make_cases,
    named_markers,
)

if TYPE_CHECKING:
    from pytest_onnxdet.backends import Backend
    from pytest_onnxdet.data.datasets import DatasetRegistry
    from pytest_onnxdet.models.registry import ModelRegistry
    from pytest_onnxdet.models.spec import ModelSpec


def start(config: pytest.Config) -> Settings:
    """Makes the cases and takes part in the run from here on; returns what was asked for.

    Raises:
        pytest.UsageError: the request cannot be met.
    """
    settings = read_settings(config)
    try:
        with contained():
            suite = make_suite(config, settings)
    except (SettingsError, ValueError, LookupError) as error:
        raise pytest.UsageError(f"onnxdet: {error}") from error
    config.stash[SUITE] = suite
    plugin = SuitePlugin(config, suite)
    config.pluginmanager.register(plugin, "onnxdet-suite")
    reporter = Reporter(config, suite, plugin.collector)
    config.pluginmanager.register(reporter, "onnxdet-report")
    if settings.case_timeout is not None:
        watch = CaseTimeout(config, settings.case_timeout, reporter.finish)
        config.pluginmanager.register(watch, "onnxdet-case-timeout")
    config.add_cleanup(show_uncaptured())  # downloads take minutes, and pytest captures
    if settings.baseline is not None and not hasattr(config, "workerinput"):
        from pytest_onnxdet.pytest_layer.gate import BaselineGate

        gate = BaselineGate(settings.baseline, plugin.collector.records)
        config.pluginmanager.register(gate, "onnxdet-baseline")
    return settings


def make_suite(config: pytest.Config, settings: Settings) -> Suite:
    """Asks the hooks what there is, and the settings what of it is wanted."""
    from pytest_onnxdet.backends import builtin_backends
    from pytest_onnxdet.data.datasets import builtin_datasets
    from pytest_onnxdet.families.registry import builtin_families
    from pytest_onnxdet.models.registry import builtin_registry

    models, datasets, families = builtin_registry(), builtin_datasets(), builtin_families()
    backends = BackendRegistry(builtin_backends().values())
    if settings.data is not None:
        _add_coco(datasets, settings.data)
    config.hook.pytest_onnxdet_models(registry=models)
    config.hook.pytest_onnxdet_backends(registry=backends)
    config.hook.pytest_onnxdet_datasets(registry=datasets)
    config.hook.pytest_onnxdet_families(registry=families)
    _add_own(models, datasets, settings)
    specs = choose_models(settings, models)
    chosen = choose_backends(settings, backends.as_dict(), _ran_before(settings))
    _require_datasets((spec.dataset for spec in specs), datasets)
    cases = make_cases(settings, specs, chosen.run)
    require_matching(specs, backends.as_dict())
    if settings.strict and not hasattr(config, "workerinput"):
        _require_one_view(specs)
    names = [spec.name for spec in models]
    for name, text in named_markers(names, backends.as_dict(), settings.batches).items():
        config.addinivalue_line("markers", f"{name}: {text}")
    _require_writable(settings.cache, "--onnxdet-cache")
    if settings.report is not None:
        _require_writable(settings.report, "--onnxdet-report")
    return Suite(settings, cases, chosen.skipped, chosen.absent, datasets, families)


def _ran_before(settings: Settings) -> set[str]:
    """The backends that ran in the run to compare with."""
    if settings.baseline is None:
        return set()
    from pytest_onnxdet.report import ReportError, read_report

    try:
        _, before = read_report(settings.baseline)
    except ReportError as error:
        raise pytest.UsageError(f"--onnxdet-baseline: {error}") from error
    return {record.backend for record in before if record.outcome != "skipped"}


def _add_own(models: ModelRegistry, datasets: DatasetRegistry, settings: Settings) -> None:
    """The detectors that a user names by config and checkpoint."""
    from pytest_onnxdet.core.errors import StageError
    from pytest_onnxdet.run.own import specs_of

    for own in settings.own:
        if own.checkpoint is None and not settings.random_weights:
            raise SettingsError(
                f"{own.config}: no weights: give --onnxdet-checkpoint, or "
                "--onnxdet-checkpoints=none for random ones"
            )
        try:
            spec, dataset = specs_of(own, settings.cache)
        except StageError as error:
            raise SettingsError(str(error)) from error
        models.register(spec)
        datasets.register(dataset)


def _require_one_view(specs: Iterable[ModelSpec]) -> None:
    """Refuses models of whose images mmdet's own test merges several views."""
    from pytest_onnxdet.data.augmentation import first_view
    from pytest_onnxdet.models.checkpoint import BuildError
    from pytest_onnxdet.run.augmented import augmented

    try:
        by_model = augmented(specs, thorough=True)
    except BuildError as error:
        raise pytest.UsageError(f"--onnxdet-strict: {error}") from error
    if by_model:
        augmenting = "; ".join(first_view(name, views) for name, views in by_model.items())
        raise pytest.UsageError(f"--onnxdet-strict: {augmenting}: set flip=False and one scale")


def _add_coco(datasets: DatasetRegistry, folder: Path) -> None:
    """The full-size models' data set, from ``--onnxdet-data``."""
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


class SuitePlugin:
    """The hooks of an enabled run."""

    def __init__(self, config: pytest.Config, suite: Suite) -> None:
        self.config = config
        self.suite = suite
        self.collector = Collector(suite.cases)
        self._asked: dict[str, str | None] = {}

    def _unrunnable(self, backend: Backend) -> str | None:
        """Why a backend has no sessions here; asked once, as the answer may take a while."""
        if backend.name not in self._asked:
            self._asked[backend.name] = backend.unrunnable()
        return self._asked[backend.name]

    def pytest_report_header(self) -> list[str]:
        """Says what is about to be verified."""
        cases, settings = self.suite.cases, self.suite.settings
        axes: dict[str, set[Any]] = {
            "models": {case.spec.name for case in cases},
            "backends": {case.backend.name for case in cases},
            "shapes": {case.shape for case in cases},
            "batch sizes": {case.batch for case in cases},
        }
        counts = ", ".join(f"{len(values)} {name}" for name, values in axes.items())
        profiles = ", ".join(sorted({case.spec.profile for case in cases}))
        lines = [f"onnxdet: {len(cases)} cases of profile {profiles} ({counts})"]
        lines += [f"onnxdet: without {name}: {why}" for name, why in self.suite.absent.items()]
        if settings.random_weights:
            lines.append("onnxdet: random weights: graphs are compared with PyTorch, AP is not")
        if settings.limit is not None:
            lines.append(f"onnxdet: only the first {settings.limit} images")
        with contained():  # it may read configs, for which mmcv is imported
            return lines + self._augmented()

    def _augmented(self) -> list[str]:
        """A line for each model of which only the first view is verified."""
        if self.config.getoption("collectonly") or hasattr(self.config, "workerinput"):
            return []
        from pytest_onnxdet.data.augmentation import first_view
        from pytest_onnxdet.run.augmented import augmented

        specs = {case.spec.name: case.spec for case in self.suite.cases}
        by_model = augmented(specs.values())
        return [f"onnxdet: {first_view(name, views)}" for name, views in by_model.items()]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Runs every test that takes an onnxdet fixture once for each case."""
        if "onnxdet_case" not in metafunc.fixturenames:
            return
        if "onnxdet_fault" in metafunc.fixturenames:
            from pytest_onnxdet.pytest_layer.faults import parametrize

            parametrize(metafunc, self.suite, self._unrunnable)
            return
        building = metafunc.definition.get_closest_marker("build") is not None
        running = "onnxdet_session" in metafunc.fixturenames
        params = []
        for case in self.suite.cases:
            if building and not case.backend.builds:
                continue
            marks = [getattr(pytest.mark, name) for name in case.markers]
            if self.suite.settings.profile == FULL:
                marks.append(getattr(pytest.mark, FULL))
            excused = excuse(case, check_of(metafunc.definition))
            marks += [] if excused is None else [excused]
            why = self.suite.missing.get(case.backend.name)
            if why is None and running:
                why = self._unrunnable(case.backend)
            if why is not None:
                marks.append(pytest.mark.skip(reason=why))
            params.append(pytest.param(case, id=case.id, marks=marks))
        if not params:
            # An item that is deselected later: an empty list would be judged by the project's
            # empty_parameter_set_mark, which may fail the whole collection.
            params = [pytest.param(None, id="no-backend-builds")]
        metafunc.parametrize("onnxdet_case", params, indirect=True, scope="session")

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keeps a model's tests together; another --dist than the default is the user's."""
        if config.getoption("dist") != "load":
            return None
        from pytest_onnxdet.pytest_layer.workers import CaseScheduling

        return CaseScheduling(self.suite.cases, config, log)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Orders tests by case, so that one detector at a time is in memory.

        Within a case they go by check, so that a graph that does not export is the first thing
        reported. Models with masks take longest and come first: several workers then end
        together. Tests of something else keep their places.
        """
        # A build test has no case where no chosen backend builds. Another project's test may
        # carry a marker of the same name and have nothing to do with cases.
        idle = [
            item
            for item in items
            if check_of(item) == "build"
            and "onnxdet_case" in getattr(item, "fixturenames", ())
            and case_of(item) is None
        ]
        if idle:
            self.config.hook.pytest_deselected(items=idle)
            items[:] = [item for item in items if item not in idle]
        slowest_first = sorted(self.suite.cases, key=lambda case: not case.spec.masks)
        order = {id(case): place for place, case in enumerate(slowest_first)}
        ranks = {check: place for place, check in enumerate(CHECKS)}
        places = [place for place, item in enumerate(items) if case_of(item) is not None]
        ordered = sorted(
            (items[place] for place in places),
            key=lambda item: (
                order[id(case_of(item))],
                ranks.get(check_of(item) or "", len(ranks)),
            ),
        )
        for place, item in zip(places, ordered, strict=True):
            items[place] = item

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Keeps warnings of what detectors are made with from failing a case's checks."""
        if (case := case_of(item)) is not None:
            refuse_expired(case, check_of(item))
            contain(verbose=self.config.get_verbosity() > 0)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Makes a clean message, and a record, of what became of a case."""
        report = yield
        judge(item, call, report)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gathers the records, from every worker."""
        self.collector.add(report)
