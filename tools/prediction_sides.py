"""A mini and its full-size detector, each with the same fault in the same place, and judged."""

from __future__ import annotations

import contextlib
import hashlib
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import onnx

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.data.batches import Batches
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.structure import LIMIT, is_structure
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import (
    SELFTEST_BATCH,
    SELFTEST_IMAGES,
    Case,
    Settings,
    choose_models,
)
from pytest_onnxdet.run.selftest import SelfTest
from pytest_onnxdet.verify.mutants import Operator
from pytest_onnxdet.verify.selftest import MutantResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.datasets import DatasetRegistry
    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.models.spec import ModelSpec

_KEPT = 3  # batches whose raw outputs PyTorch computes once: the batch, and each image of it

#: Places of one fault in both graphs.
Places = tuple[str, str]


class Sides(Protocol):
    """A mini and its full-size detector, both ready to be judged. A context manager."""

    def places(self, operator: Operator) -> Places | None:
        """The same place in both graphs; None where they have none that takes the fault."""
        ...

    def judged(self, operator: Operator, places: Places) -> Iterator[MutantResult]:
        """What the suite says of the mini's mutant, and of the full-size one."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def common_place(
    operator: Operator, mini: onnx.ModelProto, full: onnx.ModelProto, salt: str
) -> Places | None:
    """The same place of a fault in two graphs, or the same kind of place.

    Args:
        operator: the fault.
        mini, full: the good graphs.
        salt: another one begins elsewhere among the places.

    Returns:
        A place in each: the node of the same name where both graphs have one that takes the fault,
        else a place whose name differs in numbers alone, as far along among its kind.
    """
    ours, theirs = operator.places(mini), operator.places(full)
    if not ours or not theirs:
        return None
    start = zlib.crc32(f"{salt} {operator.name}".encode()) % len(ours)
    turned = [*ours[start:], *ours[:start]]
    for pair in (*_of_one_name(turned, theirs), *_of_one_kind(turned, ours, theirs)):
        if operator.apply(mini, pair[0]) and operator.apply(full, pair[1]):
            return pair
    return None


def _of_one_name(turned: Sequence[str], theirs: Sequence[str]) -> list[Places]:
    known = set(theirs)
    return [(name, name) for name in turned if name in known]


def _of_one_kind(
    turned: Sequence[str], ours: Sequence[str], theirs: Sequence[str]
) -> Iterator[Places]:
    for name in turned:
        mine = [one for one in ours if kind(one) == kind(name)]
        alike = [one for one in theirs if kind(one) == kind(name)]
        if alike:
            yield name, alike[mine.index(name) * len(alike) // len(mine)]


def kind(place: str) -> str:
    """A place's name without its numbers: layer 3 of a stage is what layer 1 is."""
    return "".join(one for one in place if not one.isdigit())


class Detectors:
    """The shipped mini and the documented full-size detector of one name.

    Args:
        name: of the model.
        cache: folder of graphs and recordings.
        size: the longer side of the full-size detector's images, pixels.
        threads: for PyTorch and ONNX Runtime.
    """

    def __init__(self, name: str, cache: Path, size: int, threads: int) -> None:
        minis = Settings(cache=cache, models=(name,), limit=SELFTEST_IMAGES)
        fulls = Settings(
            cache=cache, models=(name,), profile="full", random_weights=True, limit=LIMIT
        )
        self._name, self._size, self._threads = name, size, threads
        self._stack = contextlib.ExitStack()
        self._wanted = [(minis, SELFTEST_BATCH), (fulls, LIMIT)]
        self._tests: list[SelfTest] = []

    def __enter__(self) -> Self:
        for settings, batch in self._wanted:
            (spec,) = choose_models(settings, builtin_registry())
            if settings.random_weights:
                spec = sized(spec, self._size)
            bench = _Bench(settings, builtin_datasets(), self._threads)
            self._stack.enter_context(bench)
            case = Case(spec, OnnxRuntimeBackend("cpu"), "dynamic", batch)
            bench.recording(case)
            bench.reference(spec).keeping = True
            test = self._stack.enter_context(SelfTest(bench, case, early=True))
            test.require_good()
            self._tests.append(test)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def places(self, operator: Operator) -> Places | None:
        """As :func:`common_place`; none where the fault shows in larger batches alone."""
        if any(operator.min_batch > test.case.batch for test in self._tests):
            return None
        mini, full = (test.model(test.bench.artifact(test.case)) for test in self._tests)
        return common_place(operator, mini, full, self._name)

    def judged(self, operator: Operator, places: Places) -> Iterator[MutantResult]:
        """The mini's verdict, then the full-size detector's."""
        for test, place in zip(self._tests, places, strict=True):
            yield test.at(operator, place)


def sized(spec: ModelSpec, size: int) -> ModelSpec:
    """A spec with images of at most another size.

    SSD's stay, whose anchors are for 300 px, and CornerNet's, whose pipeline keeps an image's size.
    """
    from pytest_onnxdet.models.build import load_config

    cfg: Any = load_config(spec)
    step = cfg.data.test.pipeline[1]
    if max(step.get("img_scale", (0,))) <= size:
        return spec
    return replace(
        spec,
        weights=f"{spec.weights}, {size} px",
        overrides={"data.test.pipeline.1.img_scale": (size, size * 4 // 5)},
    )


def raise_thresholds(detector: Any, threshold: float) -> None:
    """Sets a detector's thresholds, where it has any, to let about this score pass.

    Where confidences have one, too, their product with the scores does, of which this is the root.
    """
    held = [detector.cfg.model.get("test_cfg")]
    held += [getattr(module, "test_cfg", None) for module in detector.modules()]
    for cfg in filter(None, held):
        for part in (cfg, cfg.get("rcnn")):
            if part is not None and part.get("conf_thr") is not None:
                part.conf_thr = part.score_thr = math.sqrt(threshold)
            elif part is not None and part.get("score_thr") is not None:
                part.score_thr = threshold


class Keeping(Reference):
    """A reference that computes the raw outputs of the same images once: each proof asks for them.

    Attributes:
        keeping: whether it does. The noise is measured on the same images, computed otherwise.
    """

    def __init__(self, detector: Any, families: FamilyRegistry) -> None:
        super().__init__(detector, families)
        self.keeping = False
        self._kept: dict[str, dict[str, NDArray[np.float32]]] = {}

    def raw(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """As the detector computes them; once, where ``keeping`` is set."""
        if not self.keeping:
            return super().raw(batch)
        digest = hashlib.sha256(batch.images.tobytes()).hexdigest()
        key = f"{digest} {batch.images.shape} {batch.image_shape.tolist()}"
        if key not in self._kept:
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = super().raw(batch)
        return self._kept[key]


class _Bench(Workbench):
    """A workbench with such a reference, and random weights that leave slots empty."""

    def __init__(self, settings: Settings, datasets: DatasetRegistry, threads: int) -> None:
        super().__init__(settings, datasets, threads)
        self._raised: list[Any] = []

    def detector(self, spec: ModelSpec) -> Any:
        """As elsewhere; with random weights one image has half its detections below ``score_thr``.

        They detect more than a detector may keep in every image: without that no slot is empty, and
        no threshold decides.
        """
        made: Any = super().detector(spec)
        if is_structure(spec) and made not in self._raised:
            self._raised.append(made)
            found = Reference(made, self.families).run(Batches(self.dataset(spec), LIMIT)[0])
            raise_thresholds(made, min(float(np.median(one.scores)) for one in found))
        return made

    def reference(self, spec: ModelSpec) -> Keeping:
        return self._once(spec, ("reference",), lambda: Keeping(self.detector(spec), self.families))
