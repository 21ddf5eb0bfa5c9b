"""What a run was asked for, and the cases that this makes. Imports nothing heavy.

A case is one (model, backend, shape mode, batch size, precision). Everything that depends on the
request alone is decided here, before a detector is built: which cases there are, in which order,
what they are called, which markers they carry and which of them cannot run. The pytest layer and
the command line both use it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_onnxdet.backends.registry import marker_name
from pytest_onnxdet.core.vocabulary import (
    COCO,
    DEFAULT_BATCHES,
    DEFAULT_PRECISION,
    SHAPES,
    fixed_markers,
)
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.structure import structure_spec

if TYPE_CHECKING:
    from pytest_onnxdet.backends.base import Backend
    from pytest_onnxdet.models.own import OwnModel
    from pytest_onnxdet.models.registry import ModelRegistry


#: The extents of a self-test: how many places of each fault are tried in a graph.
SELFTEST_QUICK, SELFTEST_FULL = "quick", "full"
SELFTEST_PLACES = {SELFTEST_QUICK: 1, SELFTEST_FULL: 4}
#: A self-test's images a batch, and in ``quick`` its images. The third image of a batch shows what
#: two do not.
SELFTEST_BATCH, SELFTEST_IMAGES = 3, 6


class SettingsError(ValueError):
    """The request cannot be met as it stands; the message lists what exists."""


@dataclass(frozen=True)
class Settings:
    """What a run was asked for.

    Attributes:
        cache: folder of exported graphs and reference results.
        models: globs over model names; empty: every model of the profile.
        profile: ``mini``, ``full`` or a profile that a downstream repository registered.
        backends: names; empty: every registered one that is run by default and is here.
        shapes: of :data:`pytest_onnxdet.core.vocabulary.SHAPES`.
        batches: images per batch, each at least 1.
        precisions: ``fp32``, ``fp16``.
        checkpoints: folder to take every model's weights from; None: where the spec says.
        random_weights: no checkpoints at all, see :mod:`pytest_onnxdet.models.structure`.
        data: COCO folder of the full-size models, with ``vocabulary.COCO_FILES``; None: none.
        report: folder for the report's files; None: no files.
        strict: refuse a model whose test pipeline augments, rather than say so.
        baseline: an earlier run's report.json to compare with; None: none.
        limit: only the first so many images of a data set; None: all.
        selftest: ``quick`` or ``full``: mutants are what is verified; empty: no self-test.
        case_timeout: seconds that a check of a case may take; None: any.
        own: detectors that a user names by config and checkpoint.
    """

    cache: Path
    models: tuple[str, ...] = ()
    profile: str = "mini"
    backends: tuple[str, ...] = ()
    shapes: tuple[str, ...] = SHAPES
    batches: tuple[int, ...] = DEFAULT_BATCHES
    precisions: tuple[str, ...] = (DEFAULT_PRECISION,)
    checkpoints: Path | None = None
    data: Path | None = None
    report: Path | None = None
    limit: int | None = None
    random_weights: bool = False
    baseline: Path | None = None
    strict: bool = False
    selftest: str = ""
    case_timeout: float | None = None
    own: tuple[OwnModel, ...] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """One combination to verify. Two cases are equal when they are the same object.

    Attributes:
        spec: the model.
        backend: what runs its graph.
        shape: ``static`` or ``dynamic``.
        batch: images per batch.
        precision: ``fp32``, ``fp16``.
    """

    spec: ModelSpec
    backend: Backend
    shape: str
    batch: int
    precision: str = DEFAULT_PRECISION

    @property
    def id(self) -> str:
        """The name in test ids and reports, ``mask_rcnn-onnxruntime-dynamic-b2``.

        The precision is named where it is not fp32: ``mask_rcnn-tensorrt-static-b1-fp16``.
        """
        name = f"{self.spec.name}-{self.backend.name}-{self.shape}-b{self.batch}"
        return name if self.precision == DEFAULT_PRECISION else f"{name}-{self.precision}"

    @property
    def markers(self) -> tuple[str, ...]:
        """The names of the pytest markers that select this case, the check's aside."""
        return (
            "onnxdet",
            self.spec.name,
            marker_name(self.backend.name),
            self.shape,
            f"batch{self.batch}",
        )


def named_markers(
    models: Iterable[str], backends: Iterable[str], batches: Iterable[int] = ()
) -> dict[str, str]:
    """Markers of models, backends and batch sizes, beyond the fixed ones.

    Raises:
        SettingsError: two things would share a marker, so that ``-m`` would select both.
    """
    fixed = fixed_markers()
    table: dict[str, str] = {}
    named = [(name, f"onnxdet cases of the model {name}") for name in dict.fromkeys(models)]
    named += [(marker_name(name), f"onnxdet cases of the backend {name}") for name in backends]
    for name, text in named:
        taken = fixed.get(name) or table.get(name)
        if taken:
            raise SettingsError(
                f"the marker {name!r} would mean both '{taken}' and '{text}': rename one"
            )
        table[name] = text
    for batch in batches:
        if f"batch{batch}" not in fixed:
            table[f"batch{batch}"] = f"onnxdet cases of batch size {batch}"
    return table


def choose_models(settings: Settings, registry: ModelRegistry) -> tuple[ModelSpec, ...]:
    """The selected specs, with their weights in ``settings.checkpoints`` where that is set.

    Raises:
        SettingsError: a profile or name that does not exist, or a checkpoint that is not there.
    """
    if settings.profile not in registry.profiles():
        raise SettingsError(
            f"no models of profile {settings.profile!r}; "
            f"profiles: {', '.join(registry.profiles()) or 'none'}"
        )
    try:
        specs = registry.select(settings.models, settings.profile)
    except LookupError as error:
        raise SettingsError(str(error)) from error
    if settings.random_weights:
        drawn = [settings.data is None and spec.dataset == COCO for spec in specs]
        return tuple(
            structure_spec(spec, None if alone else spec.dataset)
            for spec, alone in zip(specs, drawn, strict=True)
        )
    if settings.checkpoints is None:
        return specs
    return tuple(_with_checkpoint(spec, settings.checkpoints) for spec in specs)


def _with_checkpoint(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec with the weights of that folder; never silently those of somewhere else."""
    names = [f"{spec.name}.safetensors", f"{spec.name}.pth"]
    if spec.weights is not None:
        names.append(spec.weights.rsplit("/", 1)[-1])
    for name in names:
        if (folder / name).is_file():
            return replace(spec, weights=str(folder / name))
    raise SettingsError(
        f"{folder}: no weights of {spec.name!r}; looked for {', '.join(dict.fromkeys(names))}"
    )


@dataclass(frozen=True)
class ChosenBackends:
    """The backends of a run.

    Attributes:
        run: those that cases are made for, by name.
        skipped: of these the missing ones, with the reason: their cases are skipped.
        absent: the missing ones that nobody asked for, with the reason: no case is made.
    """

    run: dict[str, Backend]
    skipped: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def choose_backends(
    settings: Settings, backends: Mapping[str, Backend], expected: Collection[str] = ()
) -> ChosenBackends:
    """The selected backends, and why some of them cannot run here.

    A backend that was asked for by name and is missing is an error. One that nobody asked for has
    no cases, unless the run is compared with one in which it ran: a runtime that is gone shows.

    Args:
        settings: the request.
        backends: every registered one, by name.
        expected: names of those that ran in the run to compare with.

    Raises:
        SettingsError: an unknown name, a missing backend, no backend at all, or a precision
            nobody computes in.
    """
    unknown = [name for name in settings.backends if name not in backends]
    if unknown:
        raise SettingsError(
            f"no backend {', '.join(map(repr, unknown))}; there are: {', '.join(backends)}"
        )
    wanted = settings.backends or [name for name, b in backends.items() if b.default]
    asked = {name: backends[name] for name in wanted}
    missing = {name: why for name, b in asked.items() if (why := b.missing()) is not None}
    reasons = "; ".join(f"backend {name!r}: {why}" for name, why in missing.items())
    if settings.backends and missing:
        raise SettingsError(reasons)
    absent = {name: why for name, why in missing.items() if name not in expected}
    chosen = {name: backend for name, backend in asked.items() if name not in absent}
    if not chosen:
        raise SettingsError(f"no backend is here to run on: {reasons}")
    offered = dict.fromkeys(p for b in chosen.values() for p in precisions(b))
    for precision in settings.precisions:
        if precision not in offered:
            more = f"; {reasons}" if reasons else ""
            raise SettingsError(
                f"no precision {precision!r} in {', '.join(chosen)}; there are: "
                f"{', '.join(offered)}{more}"
            )
    skipped = {name: why for name, why in missing.items() if name in expected}
    return ChosenBackends(chosen, skipped, absent)


def precisions(backend: Backend) -> tuple[str, ...]:
    """What a backend computes in: its ``precisions`` where it has them, else fp32 alone."""
    return tuple(getattr(backend, "precisions", (DEFAULT_PRECISION,)))


def make_cases(
    settings: Settings, specs: Sequence[ModelSpec], backends: Mapping[str, Backend]
) -> tuple[Case, ...]:
    """Every case, grouped so that what is expensive is needed in one stretch.

    The model changes slowest, as one detector at a time is kept in memory; then what the
    reference's results depend on; the backends, which are compared with the same results, last.

    Raises:
        SettingsError: there is none: a run without a case would pass without a comparison.
    """
    offered = {name: precisions(backend) for name, backend in backends.items()}
    cases = tuple(
        Case(spec, backend, shape, batch, precision)
        for spec in specs
        for shape in settings.shapes
        for batch in settings.batches
        for backend in backends.values()
        for precision in settings.precisions
        if precision in offered[backend.name]
    )
    if not cases:
        raise SettingsError("the options leave no case to verify")
    return cases
