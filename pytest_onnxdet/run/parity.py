"""A case before the judge: both sides, the proofs of ties, and which stage to blame."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_onnxdet.core.vocabulary import DEFAULT_PRECISION
from pytest_onnxdet.run.eager import Eager
from pytest_onnxdet.run.ties import alternatives, max_tied
from pytest_onnxdet.verify.judge import Sides, TieProofs
from pytest_onnxdet.verify.noise import narrowed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.models.spec import Tolerance
    from pytest_onnxdet.reference.noise import Noise
    from pytest_onnxdet.run.bench import Workbench
    from pytest_onnxdet.run.cases import Case


def noise_of(bench: Workbench, case: Case) -> Noise | None:
    """The noise that a case is held to; None where its tolerance counts as it is.

    It is that of float32. A tolerance that the spec names for the backend was chosen by somebody
    who knows why, and is not narrowed.
    """
    by_hand = case.backend.name in case.spec.tolerances
    noise = bench.recording(case).noise
    if noise is None or by_hand or case.precision != DEFAULT_PRECISION:
        return None
    return noise.on(bench.session(case).device)


def sides(
    bench: Workbench,
    case: Case,
    reference: Sequence[Detections],
    candidate: Sequence[Detections],
    singly: bool = True,
) -> Sides:
    """All that is compared of a case: detections, raw outputs, and a batch's images one by one.

    Args:
        bench: where the case is at work.
        case: the case.
        reference: PyTorch's detections, one entry per image.
        candidate: the backend's.
        singly: whether the backend runs the images one by one, too.
    """
    return Sides(
        reference,
        candidate,
        classes=case.spec.classes,
        images=bench.names(case),
        max_per_img=bench.max_per_img(case.spec),
        singles=bench.singles(case) if singly else None,
        raw_reference=bench.raw_reference(case),
        raw=bench.raw(case),
        noise=noise_of(bench, case),
    )


def tie_proofs(bench: Workbench, case: Case, tolerance: Tolerance) -> TieProofs:
    """mmdet's own proofs, on PyTorch's raw outputs, for as many images as the spec expects."""
    return TieProofs(partial(alternatives, bench, case, tolerance), max_tied(bench, case.spec))


def blame(bench: Workbench, case: Case) -> str:
    """Which stage changes the detections, lowering, export or runtime, and which node, in words."""
    from pytest_onnxdet.families import lower
    from pytest_onnxdet.run.guilty import guilty_node
    from pytest_onnxdet.verify.localize import Stage, localize, standard_stages

    # The deploy model of a static graph is another one, which takes shapes for numbers.
    deploy = lower(
        bench.detector(case.spec),
        case.backend.lowering,
        fixed_shape=case.shape == "static",
        families=bench.families,
    )
    session = bench.session(case)
    tolerance = case.spec.tolerance(case.backend.name, case.precision, session.device)
    noise = noise_of(bench, case)

    def of_stage(stage: Stage, index: int, candidate: Detections) -> Iterable[Detections]:
        return alternatives(bench, case, tolerance, index, candidate, raw_session=stage.raw)

    stage = localize(
        bench.results(case),
        standard_stages(
            Eager(deploy),
            bench.artifact(case),
            session,
            bench.batches(case),
            raw_lowered=lambda: Eager(deploy, raw=True),
            raw_artifact=lambda: bench.artifact(case, postprocess=False),
            raw_session=lambda: bench.session(case, postprocess=False),
        ),
        tolerance if noise is None else narrowed(tolerance, noise),
        classes=case.spec.classes,
        images=bench.names(case),
        max_per_img=bench.max_per_img(case.spec),
        alternatives=of_stage,
    )
    node = guilty_node(bench, case, stage, deploy)
    return "\n".join(filter(None, (str(stage), node)))
