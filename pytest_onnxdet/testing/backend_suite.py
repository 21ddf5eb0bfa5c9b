"""A suite for a backend: derive a class of :class:`BackendTests`, say which backend, run pytest.

It needs the runtime, NumPy and onnx, and neither torch nor mmdet: what is run is the detector of
:mod:`pytest_onnxdet.testing.tiny`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_onnxdet.backends.base import Backend, BackendError, Session
from pytest_onnxdet.testing import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

#: (N, 3, H, W) of the static graph, and what a backend with a narrow profile takes at most.
SHAPE = (2, 3, 32, 32)
#: Pixels, and score: far above what float32 loses in two layers, far below what a fault changes.
BOX_PX, SCORE = 0.01, 1e-4

FULL = [
    {(0, 0): ("white", 1.0), (2, 5): ("red", 0.75), (7, 7): ("white", 0.5)},
    {(1, 6): ("red", 0.9), (6, 1): ("white", 0.625)},
]
OTHER = [
    {(4, 4): ("red", 1.0)},
    {(0, 7): ("white", 0.875), (3, 0): ("white", 0.7), (5, 5): ("red", 0.55), (7, 2): ("red", 0.8)},
]


class BackendTests:
    """Invariant: a session gives what the graph computes of the batch that it is fed, or refuses.

    Derive a class whose name begins with ``Test`` and override the fixture :meth:`backend`. Batches
    are of at most 2 images of 32 x 32 pixels, but for the one outside of a profile.
    """

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend, or ``pytest.skip`` with what is missing. To be overridden."""
        raise NotImplementedError("override the fixture `backend`: return the backend to test")

    @pytest.fixture
    def device(self) -> str:
        """What its sessions' ``device`` says; override it where that is not ``cpu``."""
        return "cpu"

    @pytest.fixture
    def narrow_backend(self) -> Backend | None:
        """One whose dynamic graphs take up to 2 images of 32 x 32 pixels and refuse any other.

        None, where nobody can limit the shapes that the backend takes.
        """
        return None

    def test_outputs_keep_the_contract(self, backend: Backend, device: str, tmp_path: Path) -> None:
        """Outputs come by their names, in the graph's shapes and types, from the said device."""
        with backend.prepare(tiny.artifact(tmp_path), threads=1) as session:
            outputs = session.run_arrays(tiny.feeds(FULL))
            _require(set(outputs) == {"dets", "labels"}, f"the outputs are {sorted(outputs)}")
            for name, shape, dtype in (
                ("dets", (2, tiny.SLOTS, 5), "float32"),
                ("labels", (2, tiny.SLOTS), "int64"),
            ):
                got = f"{outputs[name].dtype} {outputs[name].shape}"
                _require(got == f"{dtype} {shape}", f"{name} is {got}, not {dtype} {shape}")
            _require(session.device == device, f"the device is {session.device!r}, not {device!r}")

    def test_a_static_graph_refuses_another_shape(self, backend: Backend, tmp_path: Path) -> None:
        """A graph of fixed shape runs that shape exactly, and raises BackendError for any other."""
        with backend.prepare(tiny.artifact(tmp_path, SHAPE), threads=1) as session:
            _check(session, tiny.feeds(FULL))
            for other in (
                tiny.feeds(FULL[:1]),
                tiny.feeds([*FULL, *OTHER]),
                tiny.feeds(FULL, size=(32, 40)),
                tiny.feeds(FULL, size=(64, 16)),
            ):
                shape = other["input"].shape
                refused = _refuses(partial(session.run_arrays, other))
                _require(refused, f"a graph of the shape {SHAPE} was run with {shape}")
            _check(session, tiny.feeds(FULL))

    def test_batches_in_a_row(self, backend: Backend, tmp_path: Path) -> None:
        """A batch's outputs depend on no earlier batch, and no later one changes them."""
        with backend.prepare(tiny.artifact(tmp_path), threads=1) as session:
            batches = [tiny.feeds(FULL), tiny.feeds(OTHER), tiny.feeds(OTHER[1:]), tiny.feeds(FULL)]
            results = [session.run_arrays(batch) for batch in batches]
            for number, (outputs, batch) in enumerate(zip(results, batches, strict=True)):
                _compare(
                    outputs, tiny.expected(batch), f"batch {number} of {len(batches)} in a row"
                )

    def test_empty_results(self, backend: Backend, tmp_path: Path) -> None:
        """An image without detections has empty slots only, also after and beside others."""
        with backend.prepare(tiny.artifact(tmp_path), threads=1) as session:
            _check(session, tiny.feeds(FULL))
            for batch in (tiny.feeds([{}, {}]), tiny.feeds([{}, FULL[0]]), tiny.feeds([{}])):
                _check(session, batch)

    def test_image_shape_matters(self, backend: Backend, tmp_path: Path) -> None:
        """What ``image_shape`` says reaches the graph, for every image and in every batch."""
        with backend.prepare(tiny.artifact(tmp_path), threads=1) as session:
            for size in ((32, 32), (30, 24), (11, 32)):
                _check(session, tiny.feeds(FULL, image_shape=size))
            mixed = tiny.feeds(FULL)
            mixed["image_shape"][1] = (6, 26)
            _check(session, mixed)

    def test_a_bound_run_equals_a_plain_run(self, backend: Backend, tmp_path: Path) -> None:
        """What is fetched after bound runs is what a plain run gives, whatever ran in between.

        Of several that are bound each keeps its own inputs. A run returns milliseconds or None.
        Before the first one there is nothing to fetch.
        """
        with backend.prepare(tiny.artifact(tmp_path), threads=1) as session:
            batches = [tiny.feeds(FULL), tiny.feeds(OTHER, image_shape=(20, 20)), tiny.feeds([{}])]
            plain = [session.run_arrays(batch) for batch in batches]
            bound = [session.bind(batch) for batch in batches]
            for graph in bound:
                _require(_refuses(graph.fetch), "something is fetched before anything ran")
            for _ in range(2):
                for graph in bound:
                    took = graph.run()
                    _require(
                        took is None or (isinstance(took, float) and took >= 0),
                        f"a bound run gives {took!r}, not milliseconds or None",
                    )
            _check(session, tiny.feeds(OTHER))
            for number, (graph, wanted) in enumerate(zip(bound, plain, strict=True)):
                graph.run()
                _compare(graph.fetch(), wanted, f"bound batch {number} against its plain run")
                _compare(wanted, tiny.expected(batches[number]), f"plain batch {number}")

    def test_a_closed_session_refuses(self, backend: Backend, tmp_path: Path) -> None:
        """After ``close`` every use raises BackendError; closing again is harmless."""
        session = backend.prepare(tiny.artifact(tmp_path), threads=1)
        feeds = tiny.feeds(FULL)
        bound = session.bind(feeds)
        _check(session, feeds)
        session.close()
        session.close()
        uses: dict[str, Callable[[], object]] = {
            "run_arrays": lambda: session.run_arrays(feeds),
            "bind": lambda: session.bind(feeds),
            "run of what was bound": bound.run,
        }
        for name, use in uses.items():
            _require(_refuses(use), f"{name} works after the session was closed")

    def test_a_shape_outside_of_the_profile_is_refused(
        self, backend: Backend, narrow_backend: Backend | None, tmp_path: Path
    ) -> None:
        """A dynamic graph refuses what its profile does not hold and goes on with what it holds.

        A backend without profiles holds everything: then the larger shape has to be right.
        """
        larger = tiny.feeds([*FULL, *OTHER], size=(48, 64))
        with (narrow_backend or backend).prepare(tiny.artifact(tmp_path), threads=1) as session:
            _check(session, tiny.feeds(FULL))
            if narrow_backend is None:
                _check(session, larger)
            else:
                refused = _refuses(lambda: session.run_arrays(larger))
                _require(
                    refused, f"the shape {larger['input'].shape} outside of the profile was run"
                )
            _check(session, tiny.feeds(OTHER))


def _check(session: Session, feeds: Arrays) -> None:
    """Raises AssertionError where a session does not give what the detector finds."""
    shape = "x".join(map(str, feeds["input"].shape))
    _compare(session.run_arrays(feeds), tiny.expected(feeds), f"a batch of {shape}")


def _compare(outputs: Arrays, wanted: Arrays, what: str) -> None:
    for name in ("dets", "labels"):
        _require(name in outputs, f"{what}: there is no output {name!r}")
    np.testing.assert_array_equal(outputs["labels"], wanted["labels"], f"{what}: labels")
    boxes, scores = outputs["dets"][..., :4], outputs["dets"][..., 4]
    np.testing.assert_allclose(
        boxes, wanted["dets"][..., :4], rtol=0, atol=BOX_PX, err_msg=f"{what}: boxes"
    )
    np.testing.assert_allclose(
        scores, wanted["dets"][..., 4], rtol=0, atol=SCORE, err_msg=f"{what}: scores"
    )


def _refuses(use: Callable[[], object]) -> bool:
    """Whether a use raises BackendError; any other exception is the backend's mistake."""
    try:
        use()
    except BackendError:
        return True
    return False


def _require(condition: bool, message: str) -> None:
    """Like ``assert``, with a message also where pytest does not rewrite this module."""
    if not condition:
        raise AssertionError(message)
