"""Which stage is to blame for a difference.

From the reference to a backend's result lie three steps: PyTorch's detector → the deploy model
in PyTorch (*lowering*) → its graph, run without optimisations (*export*) → the backend
(*runtime*). Each result is compared with the one before it, so a fault is blamed on the step that
made it and not on all that repeat it. Where floats tie a step may decide otherwise and is not to
blame: what it finds is proven as the judge has it proven. The node at fault is not looked
for here; :func:`pytest_onnxdet.verify.nodes.first_differing_node` does that, for one graph in two
runtimes or two graphs that share their tensors' names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import onnx

from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.data.image_maps import image_maps
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.compare import compare_detections
from pytest_onnxdet.verify.mismatch import ParityResult
from pytest_onnxdet.verify.nodes import ort_runner
from pytest_onnxdet.verify.raw import Arrays

if TYPE_CHECKING:
    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.data.batches import Batch


class Runs(Protocol):
    """Runs a batch; a backend's session does."""

    def run(self, batch: Batch) -> Mapping[str, Any]:
        """The outputs by name."""
        ...


@dataclass(frozen=True)
class Stage:
    """One step of the chain.

    Attributes:
        name: its name.
        run: computes the detections after it.
        raw: gives what computes its raw outputs, which proofs of ties ask for; None: nothing does.
    """

    name: str
    run: Callable[[], Sequence[Detections]]
    raw: Callable[[], Runs] | None = None


#: What else the reference might have detected in an image, deciding float ties as a stage did.
StageAlternatives = Callable[[Stage, int, Detections], Iterable[Detections]]


@dataclass(frozen=True)
class Blame:
    """The first step whose result differs from the one before.

    Attributes:
        stage: its name; None when no single step differs.
        before: the steps that agree, in order.
        result: the comparison with the step before; None when the step raised.
        note: the exception, or why no step is named.
    """

    stage: str | None
    before: tuple[str, ...] = ()
    result: ParityResult | None = None
    note: str = ""

    def __str__(self) -> str:
        agreed = f" ({', '.join(self.before)} agree)" if self.before else ""
        if self.stage is None:
            return f"no stage to blame: {self.note}{agreed}"
        text = self.note or (self.result.format(limit=2) if self.result else "")
        return f"stage to blame: {self.stage}{agreed}: {text}"


def localize(
    reference: Sequence[Detections],
    stages: Sequence[Stage],
    tolerance: Tolerance,
    *,
    classes: Sequence[str] = (),
    images: Sequence[str] = (),
    max_per_img: int | None = None,
    alternatives: StageAlternatives | None = None,
) -> Blame:
    """Walks the chain and names the first step that changes the detections.

    Args:
        reference: PyTorch's detections, one entry per image.
        stages: the steps after it, in order; one is run only when all before it agree.
        tolerance: the allowances between any two neighbours.
        classes: class names in label order.
        images: file names.
        max_per_img: where the reference is cut.
        alternatives: asked for each image that a stage changes. A stage is not blamed for a result
            that the reference might have, too. With them nothing else counts as a tie of whole
            boxes.
    """
    cut = max_per_img if alternatives is None else None
    more: dict[str, Any] = {"classes": classes, "images": images, "max_per_img": cut}

    def compare(before: Sequence[Detections], stage: Stage, candidate: Any) -> ParityResult:
        """Two neighbours, the first with those of its alternatives that the second equals."""
        result = compare_detections(before, candidate, tolerance, **more)
        if alternatives is None or not result.faults or result.vacuous:
            return result
        alike = list(before)
        for index in {fault.index for fault in result.faults}:
            possible = _possible(alternatives, stage, index, candidate[index])
            alike[index] = next(
                (one for one in possible if not _differ(one, candidate[index], tolerance, more)),
                before[index],
            )
        return compare_detections(alike, candidate, tolerance, **more)

    previous: Sequence[Detections] = reference
    names: tuple[str, ...] = ()
    for stage in stages:
        try:
            candidate = stage.run()
            result = compare(previous, stage, candidate)
        except Exception as error:  # whatever a stage raises, it is the stage to blame
            return Blame(stage.name, names, None, f"{type(error).__name__}: {error}")
        if result.faults:
            return Blame(stage.name, names, result)
        previous, names = candidate, (*names, stage.name)
    if not stages:
        return Blame(None, names, None, "there is no stage")
    whole = compare(reference, stages[-1], previous)
    if whole.faults:
        return Blame(None, names, whole, "each step is within the allowance, their sum is not")
    return Blame(None, names, whole, "nothing differs here")


def _possible(
    alternatives: StageAlternatives, stage: Stage, index: int, candidate: Detections
) -> Iterable[Detections]:
    """What else the reference might have detected; nothing where looking for it fails."""
    try:
        return list(alternatives(stage, index, candidate))
    except Exception:  # the difference is reported all the same
        return []


def _differ(
    one: Detections, other: Detections, tolerance: Tolerance, more: Mapping[str, Any]
) -> bool:
    named = {**more, "images": ()}
    return bool(compare_detections([one], [other], tolerance, **named).faults)


class _Plain:
    """A graph in ONNX Runtime, without optimisations."""

    def __init__(self, artifact: Artifact) -> None:
        self._inputs = artifact.inputs
        self._model = onnx.load(artifact.path)

    def run(self, batch: Batch) -> Mapping[str, Any]:
        feeds: Arrays = {"input": batch.images, "image_shape": batch.image_shape}
        run = ort_runner({name: feeds[name] for name in self._inputs}, optimised=False)
        return run(self._model, [output.name for output in self._model.graph.output])


def standard_stages(
    lowered: Runs,
    artifact: Artifact,
    session: Runs,
    batches: Iterable[Batch],
    *,
    raw_lowered: Callable[[], Runs] | None = None,
    raw_artifact: Callable[[], Artifact] | None = None,
    raw_session: Callable[[], Runs] | None = None,
) -> list[Stage]:
    """Lowering, export and runtime, for :func:`localize`.

    Args:
        lowered: the deploy model in PyTorch.
        artifact: its graph.
        session: the backend's session of that graph.
        batches: what the reference was computed on; gone through more than once.
        raw_lowered: gives the deploy model that ends with the raw outputs.
        raw_artifact: gives the graph of the raw outputs.
        raw_session: gives the backend's session of that graph.
    """

    def results(make: Callable[[], Runs]) -> Callable[[], list[Detections]]:
        def run() -> list[Detections]:
            runs = make()
            return [
                one
                for batch in batches
                for one in from_outputs(runs.run(batch), batch, maps=image_maps(artifact.info))
            ]

        return run

    plain = None if raw_artifact is None else lambda: _Plain(raw_artifact())
    return [
        Stage("lowering", results(lambda: lowered), raw_lowered),
        Stage("export", results(lambda: _Plain(artifact)), plain),
        Stage("runtime", results(lambda: session), raw_session),
    ]
