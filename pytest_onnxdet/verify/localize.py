"""Which stage is to blame for a difference, and which node.

From the reference to a backend's result lie three steps: PyTorch's detector → the deploy model
in PyTorch (*lowering*) → its graph, run without optimisations (*export*) → the backend
(*runtime*). Each result is compared with the one before it, so a fault is blamed on the step that
made it and not on all that repeat it. For a fault of export or runtime,
:mod:`pytest_onnxdet.verify.nodes` names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.compare import compare_detections
from pytest_onnxdet.verify.mismatch import ParityResult
from pytest_onnxdet.verify.nodes import ort_runner
from pytest_onnxdet.verify.raw import Arrays

if TYPE_CHECKING:
    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.data.batches import Batch


@dataclass(frozen=True)
class Stage:
    """One step of the chain: its name, and what computes the detections after it."""

    name: str
    run: Callable[[], Sequence[Detections]]


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
        told = self.note or (self.result.format(limit=2) if self.result else "")
        return f"stage to blame: {self.stage}{agreed}: {told}"


def localize(
    reference: Sequence[Detections],
    stages: Sequence[Stage],
    tolerance: Tolerance,
    *,
    classes: Sequence[str] = (),
    images: Sequence[str] = (),
    max_per_img: int | None = None,
) -> Blame:
    """Walks the chain and names the first step that changes the detections.

    Args:
        reference: PyTorch's detections, one entry per image.
        stages: the steps after it, in order; one is run only when all before it agree.
        tolerance: the allowances between any two neighbours.
        classes: class names in label order.
        images: file names.
        max_per_img: where the reference is cut.
    """
    more: dict[str, Any] = {"classes": classes, "images": images, "max_per_img": max_per_img}
    previous: Sequence[Detections] = reference
    names: tuple[str, ...] = ()
    for stage in stages:
        try:
            found = stage.run()
            result = compare_detections(previous, found, tolerance, **more)
        except Exception as error:  # whatever a stage raises, it is the stage to blame
            return Blame(stage.name, names, None, f"{type(error).__name__}: {error}")
        if result.faults:
            return Blame(stage.name, names, result)
        previous, names = found, (*names, stage.name)
    whole = compare_detections(reference, previous, tolerance, **more)
    if whole.faults:
        return Blame(None, names, whole, "each step is within the allowance, their sum is not")
    return Blame(None, names, whole, "nothing differs here")


def standard_stages(
    deploy: Any, artifact: Artifact, session: Session, batches: Iterable[Batch]
) -> list[Stage]:
    """Lowering, export and runtime, for :func:`localize`.

    Args:
        deploy: the DeployModel, on the CPU.
        artifact: its graph.
        session: the backend's session of that graph.
        batches: what the reference was computed on; gone through more than once.
    """

    def eager() -> list[Detections]:
        import torch

        found = []
        for batch in batches:
            with torch.no_grad():
                values = deploy(torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape))
            outputs = {n: v.numpy() for n, v in zip(deploy.outputs, values, strict=True)}
            found += from_outputs(outputs, batch)
        return found

    def plain() -> list[Detections]:
        model = onnx.load(artifact.path)
        found = []
        for batch in batches:
            feeds: Arrays = {"input": batch.images, "image_shape": batch.image_shape}
            run = ort_runner({name: feeds[name] for name in artifact.inputs}, optimised=False)
            found += from_outputs(run(model, [o.name for o in model.graph.output]), batch)
        return found

    def backend() -> list[Detections]:
        return [one for batch in batches for one in from_outputs(session.run(batch), batch)]

    return [Stage("lowering", eager), Stage("export", plain), Stage("runtime", backend)]
