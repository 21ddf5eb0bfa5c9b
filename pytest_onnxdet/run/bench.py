"""Everything a case needs, made once: detector, data, graphs, sessions, both sides' detections.

A check asks for what it compares and never cares who made it or when. What is expensive is shared
between processes through the cache folder: graphs by the artifact store, PyTorch's detections by
:mod:`pytest_onnxdet.run.recordings`. What is large is kept for one model at a time, and detections
for as long as its next cases may ask for them, so cases should come grouped by model, shape mode
and batch size, as :func:`pytest_onnxdet.run.cases.make_cases` orders them.

Nothing here imports pytest: the command line works at the same bench.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pytest_onnxdet.backends.base import expecting
from pytest_onnxdet.bundle.format import packed
from pytest_onnxdet.core.cpu import fair_share, share_cores
from pytest_onnxdet.core.store import Artifact, ArtifactStore
from pytest_onnxdet.data.batches import Batches, alone, collate
from pytest_onnxdet.export.options import TRACE_BATCH, ExportOptions, traced
from pytest_onnxdet.models.channels import input_channels
from pytest_onnxdet.models.structure import CALIBRATION, is_structure
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.run.memo import Key, Memo
from pytest_onnxdet.run.reading import read_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.datasets import Dataset, DatasetRegistry
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.models.spec import ModelSpec
    from pytest_onnxdet.reference.detector import Reference

T = TypeVar("T")

# Raw outputs are large, and an image says as much about a convolution as a thousand do.
RAW_BATCHES = 4


class Workbench:
    """Makes what cases need, once. Use as a context manager, or call :meth:`close`.

    Args:
        settings: the request; its ``cache``, ``limit`` and ``data`` are used.
        datasets: where models' data sets are looked up.
        threads: for PyTorch, OpenCV and the sessions; None: this process's fair share.

    Raises:
        StoreError: the cache cannot be written to.
    """

    def __init__(
        self, settings: Settings, datasets: DatasetRegistry, threads: int | None = None
    ) -> None:
        self.settings = settings
        self.datasets = datasets
        self.threads = fair_share() if threads is None else threads
        self.store = ArtifactStore(settings.cache / "graphs")
        self._second_store = ArtifactStore(settings.cache / "second-exports")
        self._memo = Memo()

    # -- the model and its data -----------------------------------------------------------------

    def detector(self, spec: ModelSpec) -> nn.Module:
        """The unmodified detector: eval mode, CPU, weights loaded.

        Raises:
            BuildError: it cannot be built, or its weights do not load.
        """

        def build() -> nn.Module:
            import torch

            from pytest_onnxdet.models.build import build_detector

            share_cores(self.threads)
            with torch.random.fork_rng(devices=[]):
                # Weights that are drawn are drawn alike in every worker.
                torch.manual_seed(0)
                if is_structure(spec):
                    return self._calibrated(spec)
                return build_detector(spec, downloads=self.settings.cache / "checkpoints")

        return self._once(spec, ("detector",), build)

    def _calibrated(self, spec: ModelSpec) -> nn.Module:
        """The detector with random weights that detect something."""
        import torch

        from pytest_onnxdet.models.build import build_detector
        from pytest_onnxdet.models.calibrate import calibrate

        detector = build_detector(replace(spec, weights=None))
        dataset = self.dataset(spec)
        batch = collate([dataset.sample(i) for i in range(min(CALIBRATION, len(dataset)))])
        calibrate(detector, torch.from_numpy(batch.images), batch.metas)
        return detector

    def reference(self, spec: ModelSpec) -> Reference:
        """The detector as something that runs batches."""

        def wrap() -> Reference:
            from pytest_onnxdet.reference.detector import Reference

            return Reference(self.detector(spec))

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
                self._export(case, options, self.store),
                max(self.settings.batches),
                self.static_size(case.spec),
            ),
        )

    def second_export(self, case: Case) -> Artifact:
        """A second, independent export of the same graph, to compare the first with."""
        options = self.export_options(case)
        return self._once(
            case.spec,
            ("second", str(options)),
            lambda: self._export(case, options, self._second_store),
        )

    def _export(self, case: Case, options: ExportOptions, store: ArtifactStore) -> Artifact:
        from pytest_onnxdet.export.exporter import export_model

        return export_model(case.spec, options, store, detector=self.detector(case.spec))

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

    # -- what both sides found ------------------------------------------------------------------

    def results(self, case: Case) -> list[Detections]:
        """PyTorch's detections of every image, on the very batches that the case runs.

        Every backend of the same model, shape mode and batch size shares them, and so do
        processes and runs, through the cache folder.
        """

        def run() -> list[Detections]:
            from pytest_onnxdet.run.recordings import KeptResults

            kept = KeptResults(self.settings.cache / "reference")
            batches = self.batches(case)
            reference = self.reference(case.spec)
            return kept.get(
                kept.identity(reference.detector, self.dataset(case.spec), batches),
                lambda: packed(found for batch in batches for found in reference.run(batch)),
            )

        self._forget_results(case)
        return self._once(case.spec, ("results", case.shape, case.batch), run)

    def found(self, case: Case) -> list[Detections]:
        """The backend's detections of every image."""
        self._forget_found(case)
        key = ("found", case.shape, case.batch, case.id)
        return self._once(case.spec, key, lambda: self._run(case, self.session(case)))

    def singles(self, case: Case) -> list[Detections] | None:
        """The backend's detections image by image, each padded as in its batch.

        None for a batch size of 1. In static mode these are the detections of the graph of batch
        size 1, as all batches have one size and the case's own graph takes no other batch size.
        """
        if case.batch == 1:
            return None
        if case.shape == "static":
            return self.found(replace(case, batch=1))
        return self._run(case, self.session(replace(case, batch=1)), singly=True)

    def _run(self, case: Case, session: Session, singly: bool = False) -> list[Detections]:
        detector = self.detector(case.spec)
        return packed(
            found
            for batch in self.batches(case)
            for part in (alone(batch) if singly else (batch,))
            for found in read_outputs(case, session, detector, part)
        )

    def raw_reference(self, case: Case) -> list[dict[str, NDArray[Any]]]:
        """The heads' outputs in PyTorch, for the first batches."""

        def run() -> list[dict[str, NDArray[Any]]]:
            return [self.reference(case.spec).raw(batch) for batch in self._first_batches(case)]

        self._forget_results(case)
        return self._once(case.spec, ("raw", case.shape, case.batch), run)

    def raw(self, case: Case) -> list[dict[str, NDArray[Any]]]:
        """The heads' outputs of the backend, for the first batches."""
        from pytest_onnxdet.families.base import split_raw

        session = self.session(case, postprocess=False)
        return [split_raw(session.run(batch))[0] for batch in self._first_batches(case)]

    def _first_batches(self, case: Case) -> Iterator[Batch]:
        return islice(self.batches(case), RAW_BATCHES)

    def names(self, case: Case) -> list[str]:
        """The images' file names, in the order of :meth:`results`."""
        dataset = self.dataset(case.spec)
        return [dataset.path(index).name for index in range(len(dataset))]

    def max_per_img(self, spec: ModelSpec) -> int | None:
        """Where the detector cuts an image's detections; None where its config does not say."""
        from pytest_onnxdet.reference.detector import max_per_img

        return max_per_img(self.detector(spec))

    def blame(self, case: Case) -> str:
        """Which stage changes the detections: lowering, export or runtime, in words."""
        from pytest_onnxdet.families import lower
        from pytest_onnxdet.verify.localize import localize, standard_stages

        batches = self.batches(case)
        deploy = lower(self.detector(case.spec), case.backend.lowering)
        return str(
            localize(
                self.results(case),
                standard_stages(deploy, self.artifact(case), self.session(case), batches),
                case.spec.tolerance(case.backend.name, case.precision, self.session(case).device),
                classes=case.spec.classes,
                images=self.names(case),
                max_per_img=self.max_per_img(case.spec),
            )
        )

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

    def _forget_results(self, case: Case) -> None:
        """Lets go of what PyTorch found on other batches: it is on the disk, if asked for again."""
        own = (case.shape, case.batch)
        self._memo.forget(lambda key: key[0] in ("results", "raw") and key[1:] != own)

    def _forget_found(self, case: Case) -> None:
        """Lets go of what was found in other cases, but for what static batches are compared with.

        Of 5,000 images with masks a set takes some hundreds of MB.
        """

        def unwanted(key: Key) -> bool:
            if key[0] != "found" or key[-1] == case.id:
                return False
            _, shape, batch, _ = key
            return not (shape == case.shape == "static" and 1 in (batch, case.batch))

        self._memo.forget(unwanted)

    def release(self) -> None:
        """Closes the sessions and lets go of everything that is kept for the current model."""
        self._memo.clear()

    def close(self) -> None:
        """Ends the work; calling it twice is harmless."""
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
