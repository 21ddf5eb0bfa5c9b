"""The suite for backends: each of its tests fails for a backend that is broken there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from pytest_onnxdet.backends.base import Arrays, Backend, BackendError, Bound, Session
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.testing import BackendTests, tiny


class PlainSession(Session):
    """NumPy in the place of a runtime; what is broken is replaced below."""

    max_shape: tuple[int, ...] | None = None

    def _run(self, feeds: Arrays) -> Arrays:
        if self.max_shape is not None and any(
            side > max_shape
            for side, max_shape in zip(feeds["input"].shape, self.max_shape, strict=True)
        ):
            raise BackendError("outside of the profile")
        return self.compute(feeds)

    def compute(self, feeds: Arrays) -> Arrays:
        return tiny.expected(feeds)


class Unchecked(PlainSession):
    """Runs any shape of a static graph."""

    def _checked(self, feeds: Any) -> Arrays:
        self.require_open()
        return dict(feeds)


class Stale(PlainSession):
    """Writes all outputs of one shape into the same memory."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.held: dict[Any, Any] = {}

    def compute(self, feeds: Arrays) -> Arrays:
        outputs = super().compute(feeds)
        for name, value in outputs.items():
            held = self.held.setdefault((name, value.shape), value)
            held[:] = value
            outputs[name] = held
        return outputs


class First(PlainSession):
    """Gives the first batch's detections again where the next one is of its size."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.first: dict[int, Arrays] = {}

    def compute(self, feeds: Arrays) -> Arrays:
        outputs = super().compute(feeds)
        return self.first.setdefault(len(feeds["input"]), outputs)


class Ghosts(PlainSession):
    """Leaves rubbish in empty slots of images without any detection."""

    def compute(self, feeds: Arrays) -> Arrays:
        outputs = super().compute(feeds)
        outputs["dets"][(outputs["labels"] < 0).all(axis=1), 0, 4] = 0.9
        return outputs


class Unclipped(PlainSession):
    """Takes the padded size for the image's."""

    def compute(self, feeds: Arrays) -> Arrays:
        size = np.array([feeds["input"].shape[2:]] * len(feeds["input"]))
        return super().compute({**feeds, "image_shape": size})


class Idle(PlainSession):
    """Bound, it runs nothing."""

    def _bind(self, feeds: Arrays) -> Bound:
        class IdleBound(Bound):
            def _run(self) -> float | None:
                return 0.0

        return IdleBound(self, feeds)


class Eager(PlainSession):
    """Bound, it runs nothing, and makes what it did not run when it is fetched."""

    def _bind(self, feeds: Arrays) -> Bound:
        session = self

        class EagerBound(Bound):
            def _run(self) -> float | None:
                return 0.0

            def fetch(self) -> Arrays:
                return session._run(feeds)

        return EagerBound(self, feeds)


class Shared(PlainSession):
    """Of what is bound the last one's inputs count for all."""

    def _bind(self, feeds: Arrays) -> Bound:
        self.last = feeds
        session = self

        class SharedBound(Bound):
            def _run(self) -> float | None:
                self._first = session._run(session.last)
                return None

        return SharedBound(self, feeds)


class Undead(PlainSession):
    """Runs after it was closed."""

    def require_open(self) -> None:
        pass


class Boundless(PlainSession):
    """Takes no notice of its profile."""

    @property
    def max_shape(self) -> Any:  # type: ignore[override]
        return None

    @max_shape.setter
    def max_shape(self, shape: Any) -> None:
        pass


class Halves(PlainSession):
    """Gives scores of half the precision."""

    def compute(self, feeds: Arrays) -> Arrays:
        return {name: v.astype(np.float16) for name, v in super().compute(feeds).items()}


class Plain(Backend):
    name: ClassVar[str] = "plain"

    def __init__(
        self, session: Callable[[Artifact], PlainSession], max_shape: tuple[int, ...] | None = None
    ) -> None:
        self.session, self.max_shape = session, max_shape

    def missing(self) -> str | None:
        return None

    def prepare(self, artifact: Artifact, threads: int | None = None) -> Session:
        session = self.session(artifact)
        session.max_shape = self.max_shape
        return session


BROKEN = {
    "test_outputs_keep_the_contract": [Halves],
    "test_a_static_graph_refuses_another_shape": [Unchecked],
    "test_batches_in_a_row": [Stale, First],
    "test_empty_results": [Ghosts, First],
    "test_image_shape_matters": [Unclipped],
    "test_a_bound_run_equals_a_plain_run": [Idle, Eager, Shared],
    "test_a_closed_session_refuses": [Undead],
    "test_a_shape_outside_of_the_profile_is_refused": [Boundless],
}
TESTS = [name for name in vars(BackendTests) if name.startswith("test_")]


def run(name: str, session: type[PlainSession], folder: Path, narrow: bool = True) -> None:
    """One of the suite's tests, on a backend of these sessions."""
    test = getattr(BackendTests(), name)
    overridden = {
        "backend": Plain(session),
        "device": "cpu",
        "narrow_backend": Plain(session, (2, 3, 32, 32)) if narrow else None,
        "tmp_path": folder,
    }
    test(**{name: overridden[name] for name in inspect.signature(test).parameters})


def test_every_test_has_a_backend_that_fails_it() -> None:
    assert len(TESTS) == 8
    assert set(BROKEN) == set(TESTS)


@pytest.mark.parametrize(
    ("name", "session"), [(name, session) for name in TESTS for session in BROKEN[name]]
)
def test_a_broken_backend_fails(name: str, session: type[PlainSession], tmp_path: Path) -> None:
    with pytest.raises((AssertionError, BackendError)):
        run(name, session, tmp_path)


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("narrow", [True, False])
def test_a_good_backend_passes(name: str, narrow: bool, tmp_path: Path) -> None:
    run(name, PlainSession, tmp_path, narrow)


def test_a_backend_that_takes_all_shapes_has_to_be_right_in_all(tmp_path: Path) -> None:
    class Wrong(PlainSession):
        """Finds the cells of wide images elsewhere."""

        def compute(self, feeds: Arrays) -> Arrays:
            outputs = super().compute(feeds)
            if feeds["input"].shape[3] > 32:
                outputs["dets"][..., 0] += 4
            return outputs

    test = "test_a_shape_outside_of_the_profile_is_refused"
    with pytest.raises(AssertionError, match="boxes"):
        run(test, Wrong, tmp_path, narrow=False)


def test_the_backend_has_to_be_said(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from pytest_onnxdet.testing import BackendTests\nclass TestMine(BackendTests): pass"
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=len(TESTS))
    result.stdout.fnmatch_lines(["*override the fixture `backend`*"])
