"""Everything a case needs, made once: detector, data, graphs, sessions, both sides' detections.

A check asks for what it compares and never cares who made it or when. What is expensive is shared
between processes through the cache folder: graphs by the artifact store, PyTorch's side by
:mod:`pytest_onnxdet.run.recordings`. What is large is kept for one model at a time, and detections
for as long as its next cases may ask for them, so cases should come grouped by model, shape mode
and batch size, as :func:`pytest_onnxdet.run.cases.make_cases` orders them.

Nothing here imports pytest: the command line works at the same bench.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pytest_onnxdet.backends.base import expecting
from pytest_onnxdet.core.cpu import fair_share
from pytest_onnxdet.core.store import Artifact, ArtifactStore
from pytest_onnxdet.data.batches import Batches
from pytest_onnxdet.export.options import TRACE_BATCH, ExportOptions, traced
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.channels import input_channels
from pytest_onnxdet.reference.recording import packed
from pytest_onnxdet.run.by_image import ByInput, Known, input_key
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.run.memo import Key, Memo
from pytest_onnxdet.run.reading import read_alone, reader
from pytest_onnxdet.run.second_export import SecondExport, SecondExporter

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.data.datasets import Dataset, DatasetRegistry
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.models.spec import ModelSpec
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.reference.recording import Recording

T = TypeVar("T")


class Workbench:
    """Makes what cases need, once. Use as a context manager, or call :meth:`close`.

    Args:
        settings: the request; its ``cache``, ``limit`` and ``data`` are used.
        datasets: where models' data sets are looked up.
        threads: for PyTorch, OpenCV and the sessions; None: this process's fair share.
        families: how detectors are lowered; None: the built-in families.

    Raises:
        StoreError: the cache cannot be written to.
    """

    def __init__(
        self,
        settings: Settings,
        datasets: DatasetRegistry,
        threads: int | None = None,
        families: FamilyRegistry | None = None,
    ) -> None:
        self.settings = settings
        self.families = builtin_families() if families is None else families
        self.datasets = datasets
        self.threads = fair_share() if threads is None else threads
        self.store = ArtifactStore(settings.cache / "graphs")
        self._second = SecondExporter(self.threads)
        self._memo = Memo()

    # -- the model and its data -----------------------------------------------------------------

    def detector(self, spec: ModelSpec) -> nn.Module:
        """The unmodified detector: eval mode, CPU, weights loaded.

        Raises:
            BuildError: it cannot be built, or its weights do not load.
        """

        def make() -> nn.Module:
            from pytest_onnxdet.run.detectors import make_detector

            downloads = self.settings.cache / "checkpoints"
            return make_detector(
                spec, downloads, self.threads, lambda: self.dataset(spec), self.families
            )

        return self._once(spec, ("detector",), make)

    def reference(self, spec: ModelSpec) -> Reference:
        """The detector as something that runs batches."""

        def wrap() -> Reference:
            from pytest_onnxdet.reference.detector import Reference

            return Reference(self.detector(spec), self.families)

        return self._once(spec, ("reference",), wrap)

    def dataset(self, spec: ModelSpec) -> Dataset:
        """The model's data set behind the test pipeline of the model's config.

        Raises:
            DataError: it is not registered, or its files are missing or broken.
        """

        def load() -> Dataset:
            from pytest_onnxdet.data.datasets import load_dataset
            from pytest_onnxdet.models.build import load_config

            return load_dataset(
                self.datasets.get(spec.dataset), load_config(spec), limit=self.settings.limit
            )

        return self._once(spec, ("dataset",), load)

    def static_size(self, spec: ModelSpec) -> tuple[int, int]:
        """(H, W) of the input in static mode: the spec's, or what holds every image."""
        return spec.static_shape or self.dataset(spec).fitted_size()

    def batches(self, case: Case) -> Batches:
        """The case's images: all of one size in static mode, else each batch of its own."""
        static = case.shape == "static"
        shape = self.static_size(case.spec) if static else None
        channels = input_channels(self.detector(case.spec))
        return Batches(self.dataset(case.spec), case.batch, shape, fill=static, channels=channels)

    # -- graphs and sessions --------------------------------------------------------------------

    def artifact(self, case: Case, postprocess: bool = True) -> Artifact:
        """The case's graph; without post-processing: of the heads' raw outputs.

        Raises:
            ExportError: the detector does not export.
            StoreError: the cache cannot be used.
        """
        options = self.export_options(case, postprocess)
        return self._once(
            case.spec,
            ("artifact", str(options)),
            # A backend that builds for a range of shapes builds for the run's, not for the trace's.
            lambda: expecting(
                self._export(case, options),
                max(self.settings.batches),
                self.static_size(case.spec),
            ),
        )

    def second_export(self, case: Case) -> SecondExport:
        """A second export of the same graph, to compare the first with: never from a cache.

        Raises:
            ExportError: the detector does not export in another process.
        """
        options = self.export_options(case)
        return self._once(
            case.spec,
            ("second", str(options)),
            lambda: self._second.export(self.detector(case.spec), options, families=self.families),
            close=lambda export: export.path.unlink(missing_ok=True),
        )

    def _export(self, case: Case, options: ExportOptions) -> Artifact:
        from pytest_onnxdet.export.exporter import export_model

        return export_model(
            case.spec,
            options,
            self.store,
            detector=self.detector(case.spec),
            families=self.families,
        )

    def export_options(self, case: Case, postprocess: bool = True) -> ExportOptions:
        """Which graph a case needs. Dynamic graphs do not depend on the case's batch size."""
        height, width = self.static_size(case.spec)
        batch = case.batch
        if case.shape == "dynamic":
            batch, height, width = TRACE_BATCH, traced(height), traced(width)
        return ExportOptions(
            shape=case.shape,
            batch=batch,
            size=(height, width),
            lowering=case.backend.lowering,
            precision=case.precision,
            postprocess=postprocess,
        )

    def session(self, case: Case, postprocess: bool = True) -> Session:
        """The case's graph, loaded by the case's backend.

        Raises:
            BackendError: the backend refuses it.
        """
        artifact = self.artifact(case, postprocess)
        return self._once(
            case.spec,
            ("session", case.backend.name, artifact.key),
            lambda: case.backend.prepare(artifact, threads=self.threads),
            close=lambda session: session.close(),
        )

    # -- both sides' detections -----------------------------------------------------------------

    def recording(self, case: Case) -> Recording:
        """PyTorch's side: every image's detections, and the first batches' raw outputs.

        On the very batches that the case runs; shared by backends, and through the cache folder by
        processes and runs.
        """

        def load() -> Recording:
            from pytest_onnxdet.run.recordings import Recordings, recorded

            recordings = Recordings(self.settings.cache / "reference")
            batches, reference = self.batches(case), self.reference(case.spec)
            parts = recordings.identity(reference.detector, self.dataset(case.spec), batches)
            return recordings.get(
                parts, lambda: recorded(reference, batches, self.names(case), self.known(case.spec))
            )

        self._forget_others(case, "recording")
        return self._once(case.spec, ("recording", case.shape, case.batch), load)

    def known(self, spec: ModelSpec) -> Known:
        """What PyTorch detects in images, as far as they were run, however they are batched."""
        return self._once(spec, ("known",), Known)

    def results(self, case: Case) -> list[Detections]:
        """PyTorch's detections of every image, in the data set's order.

        Raises:
            DataError: an image cannot be read.
        """
        return list(self.recording(case).detections)

    def candidates(self, case: Case) -> list[Detections]:
        """The backend's detections of every image, as :meth:`results` has PyTorch's.

        Raises:
            BackendError: the backend refuses the graph or a batch.
            CheckFailed: a value departs from the graph's contract.
        """
        self._forget_others(case, "candidates")
        return self._once(case.spec, _candidates(case), lambda: self._run(case, self.session(case)))

    def singles(self, case: Case) -> list[Detections] | None:
        """The backend's detections image by image, each padded as in its batch.

        None for a batch size of 1. In static mode these are the detections of the graph of batch
        size 1, as all batches have one size and the case's own graph takes no other batch size. In
        dynamic mode the graph is the same: what batches of 1 fed alike is not run again.
        """
        if case.batch == 1:
            return None
        single = replace(case, batch=1)

        def known() -> ByInput[Detections]:
            made = self._memo.made(case.spec, _candidates(single)) or []
            return ByInput(dict(zip(map(input_key, self.batches(single)), made, strict=False)))

        if case.shape == "static":
            return self.candidates(single)
        ran = self._once(case.spec, (*_candidates(single), "alone"), known)
        reads = reader(single, self.session(single), self.detector(case.spec), self.families)
        return packed(read_alone(reads, self.batches(case), ran))

    def _run(self, case: Case, session: Session, first: int | None = None) -> list[Detections]:
        reads = reader(case, session, self.detector(case.spec), self.families)
        batches = islice(self.batches(case), first)
        return packed(image for batch in batches for image in reads(batch))

    def raw_reference(self, case: Case) -> list[Mapping[str, NDArray[Any]]]:
        """The heads' outputs in PyTorch for the first batches: float32 (N, …) arrays by name."""
        return list(self.recording(case).raw)

    def raw(self, case: Case) -> list[dict[str, NDArray[Any]]]:
        """The heads' outputs of the backend, with names and shapes of :meth:`raw_reference`.

        Raises:
            BackendError: the backend refuses the graph or a batch.
        """
        from pytest_onnxdet.families.base import split_raw

        session = self.session(case, postprocess=False)
        first = islice(self.batches(case), len(self.recording(case).raw))
        return [split_raw(session.run(batch))[0] for batch in first]

    def names(self, case: Case) -> list[str]:
        """The images' file names, in order."""
        dataset = self.dataset(case.spec)
        return [dataset.path(index).name for index in range(len(dataset))]

    def max_per_img(self, spec: ModelSpec) -> int | None:
        """Where the detector cuts an image's detections; None where its config does not say."""
        from pytest_onnxdet.reference.detector import max_per_img

        return max_per_img(self.detector(spec))

    # -- lifetime -------------------------------------------------------------------------------

    def _once(
        self,
        spec: ModelSpec,
        key: Key,
        make: Callable[[], T],
        close: Callable[[T], None] | None = None,
    ) -> T:
        """What ``make`` gives, kept until another model is asked for, and then closed."""
        return self._memo.get(spec, key, make, close)

    def _forget_others(self, case: Case, side: str) -> None:
        """Drops a side's results of other cases, but candidates that batches are compared with."""

        def unwanted(key: Key) -> bool:
            kind, *of = key
            if kind != side or of[:2] == [case.shape, case.batch]:
                return False
            singles = of[0] == case.shape and 1 in (of[1], case.batch)
            return not (kind == "candidates" and singles)

        self._memo.forget(unwanted)

    def release(self) -> None:
        """Closes the sessions and lets go of everything that is kept for the current model."""
        self._memo.clear()

    def close(self) -> None:
        """Ends the work; calling it twice is harmless."""
        self.release()
        self._second.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _candidates(case: Case) -> Key:
    """The key of a case's detections of the backend."""
    return "candidates", case.shape, case.batch, case.id
