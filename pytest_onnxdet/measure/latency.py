"""What a latency check measures in turns: the detector in PyTorch, its graph, and what follows it.

What is timed is compared, too: see :func:`require_same`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_onnxdet.measure.turns import GRAPH, RESULTS, RUN, TORCH, Subject

if TYPE_CHECKING:
    from pytest_onnxdet.backends.base import Bound, Session
    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.models.spec import Tolerance


def bind_all(session: Session, batches: Sequence[Batch]) -> list[Bound]:
    """The graph bound to each batch's inputs, one :class:`Bound` a batch."""
    return [session.bind({"input": b.images, "image_shape": b.image_shape}) for b in batches]


def detection_subjects(
    session: Session,
    detector: Subject,
    batches: Sequence[Batch],
    bound: Sequence[Bound] | None = None,
) -> dict[str, Subject]:
    """What a latency check measures; each subject works through all batches.

    The detector in PyTorch ends with boxes and pasted masks at the original images' sizes. A graph
    ends before: scaling back and pasting is a subject of its own, on the graph's last outputs. So
    is a whole run, with its copies, where the bound graph's runs leave copies out.

    Args:
        session: the graph.
        detector: the detector in PyTorch, which works through the same batches: see
            :meth:`pytest_onnxdet.reference.detector.Reference.bare_call`.
        batches: what the graph works through.
        bound: from :func:`bind_all`, where the caller looks at the outputs afterwards.
    """
    from pytest_onnxdet.data.detections import from_outputs
    from pytest_onnxdet.data.image_maps import image_maps

    outputs = [session.run(batch) for batch in batches]
    maps = image_maps(session.artifact.info)
    graphs = bind_all(session, batches) if bound is None else bound

    def run_graph() -> float | None:
        times = [graph.run() for graph in graphs]
        by_device = [time for time in times if time is not None]
        return sum(by_device) if len(by_device) == len(times) else None

    def run_whole() -> None:
        for batch in batches:
            session.run(batch)

    def run_results() -> None:
        for output, batch in zip(outputs, batches, strict=True):
            from_outputs(output, batch, maps=maps)

    subjects: dict[str, Subject] = {TORCH: detector, GRAPH: run_graph}
    if any(graph.excludes_copies for graph in graphs):
        subjects[RUN] = run_whole
    return {**subjects, RESULTS: run_results}


def require_same(
    session: Session, bound: Sequence[Bound], batches: Sequence[Batch], tolerance: Tolerance
) -> None:
    """What was timed is what is compared: the last bound runs left what a plain run gives.

    Raises:
        BackendError: they did not. Outputs that are not equal to the bit are held to ``tolerance``.
    """
    import numpy as np

    from pytest_onnxdet.backends.base import BackendError
    from pytest_onnxdet.data.detections import from_outputs
    from pytest_onnxdet.data.image_maps import image_maps
    from pytest_onnxdet.verify.compare import assert_detections_close

    maps = image_maps(session.artifact.info)
    for number, (graph, batch) in enumerate(zip(bound, batches, strict=True)):
        fetched = graph.fetch()
        plain = session.run(batch)
        try:
            if fetched.keys() != plain.keys():
                raise AssertionError(
                    f"outputs {', '.join(fetched) or 'none'} in place of {', '.join(plain)}"
                )
            if not all(np.array_equal(fetched[name], plain[name]) for name in plain):
                assert_detections_close(
                    from_outputs(plain, batch, maps=maps),
                    from_outputs(fetched, batch, maps=maps),
                    tolerance,
                )
        except AssertionError as error:
            raise BackendError(
                f"{session.artifact.path.name}: what was timed is not what is compared: the bound "
                f"runs of batch {number} left other outputs than a plain run gives: {error}"
            ) from error
