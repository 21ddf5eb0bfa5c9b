"""Running engines, on a stand-in for the library and the GPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import RUN_MS, WORDLESS, Fake, engine, feeds, graph

from pytest_onnxdet.backends.base import BackendError
from pytest_onnxdet.backends.tensorrt import builder
from pytest_onnxdet.backends.tensorrt.backend import TensorRTBackend
from pytest_onnxdet.backends.tensorrt.device import Buffer
from pytest_onnxdet.backends.tensorrt.profile import Profile
from pytest_onnxdet.core.store import Artifact


def sums(n: int, h: int = 96, w: int = 64, names: str = "input image_shape") -> np.ndarray:
    """What the stand-in answers to :func:`feeds`: of each image everything that it reads."""
    fed = feeds(n, h, w)
    return sum(fed[name].reshape(n, -1).sum(axis=1) for name in names.split())[:, None]


def test_a_session_gives_outputs_whose_size_only_the_run_tells(fake: Fake, tmp_path: Path) -> None:
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        for n in (1, 3, 2):
            np.testing.assert_array_equal(session.run_arrays(feeds(n))["dets"], sums(n))
        assert session.device == "cuda"
    with pytest.raises(BackendError, match="closed"):
        session.run_arrays(feeds())


def test_a_closed_session_leaves_nothing_on_the_device(fake: Fake, tmp_path: Path) -> None:
    session = TensorRTBackend().prepare(graph(tmp_path))
    session.run_arrays(feeds(3))
    assert fake.host.memory
    session.close()
    assert not fake.host.memory
    session.close()  # twice is harmless


def test_bound_runs_are_timed_by_events_around_the_graph_alone(fake: Fake, tmp_path: Path) -> None:
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        # The larger first, so that the smaller's inputs would fit where the larger's are.
        bound = {n: session.bind(feeds(n)) for n in (3, 1)}
        before = fake.host.clock
        for one in bound.values():
            assert one.excludes_copies
            assert one.run() == RUN_MS
        # Nothing was copied: all that the device did was to run twice.
        assert fake.host.clock - before == 2 * RUN_MS
        # Each has inputs of its own, though they ran in turns.
        for n in (1, 3, 1):
            np.testing.assert_array_equal(bound[n].fetch()["dets"], sums(n))
    with pytest.raises(BackendError, match="closed"):
        bound[1].run()


def test_what_is_bound_outlives_a_wider_engine(fake: Fake, tmp_path: Path) -> None:
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        first = session.bind(feeds(1))
        second = session.bind(feeds(5, 256, 32))
        assert len(fake.configs) == 2
        first.run()
        np.testing.assert_array_equal(first.fetch()["dets"], sums(1))
        second.run()
        np.testing.assert_array_equal(second.fetch()["dets"], sums(5, 256, 32))


def test_a_kept_engine_that_does_not_load_is_built_again_with_a_warning(
    fake: Fake, tmp_path: Path
) -> None:
    TensorRTBackend().build(graph(tmp_path))
    (stored,) = (tmp_path / "engines").glob("*/model.onnx")
    fake.stale = stored.read_bytes()
    with (
        pytest.warns(
            UserWarning, match=r"cached engine of model\.onnx .* built again\n.*not compatible"
        ),
        TensorRTBackend().prepare(graph(tmp_path)) as session,
    ):
        assert session.run_arrays(feeds(1))["dets"].shape == (1, 1)
    assert len(fake.configs) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TensorRTBackend().prepare(graph(tmp_path)).close()

    fake.loads = 0
    with (
        pytest.warns(UserWarning, match="built again"),
        pytest.raises(BackendError, match=r"does not load\n  ERROR: The engine plan file"),
    ):
        TensorRTBackend().prepare(graph(tmp_path))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("[virtualMemoryBuffer.cpp] Error Code 2: OutOfMemory", "not enough device memory"),
        ("Requested amount of GPU memory (1024 bytes) could not be allocated", "not enough device"),
        ("Error Code 1: Cuda Runtime (cudaError 2: out of memory)", "not enough device memory"),
        ("Error Code 1: Cuda Runtime (cudaError 35: the driver is too old)", "CUDA failed while"),
    ],
)
def test_a_fault_of_the_device_leaves_a_good_engine_alone(
    fake: Fake, tmp_path: Path, fault: str, words: str
) -> None:
    TensorRTBackend().build(graph(tmp_path))
    (stored,) = (tmp_path / "engines").glob("*/model.onnx")
    fake.fault = fault
    with pytest.raises(BackendError, match=words) as caught:
        TensorRTBackend().prepare(graph(tmp_path))
    assert fault in str(caught.value)
    assert stored.is_file()
    fake.fault = ""
    TensorRTBackend().prepare(graph(tmp_path)).close()
    assert len(fake.configs) == 1


def test_an_engine_that_another_process_renewed_is_not_removed(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TensorRTBackend()
    entry = backend.engine(graph(tmp_path), backend.profile_of(graph(tmp_path)))
    stale = entry.path.read_bytes()
    entry.path.write_bytes(b"a renewed one")
    builder.discard(entry, stale)
    assert entry.path.read_bytes() == b"a renewed one"
    builder.discard(entry, b"a renewed one")
    assert not entry.path.parent.exists()
    builder.discard(entry, stale)  # twice is harmless


def test_an_engine_that_another_process_removed_is_built_again(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = TensorRTBackend()
    backend.build(graph(tmp_path))
    make = backend.engine
    artifacts: list[Artifact] = []

    def engine_once_gone(artifact: Artifact, profile: Profile | None) -> Artifact:
        entry = make(artifact, profile)
        if not artifacts:
            builder.discard(entry, entry.path.read_bytes())
        artifacts.append(entry)
        return entry

    monkeypatch.setattr(backend, "engine", engine_once_gone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.prepare(graph(tmp_path)).close()
    assert [entry.cached for entry in artifacts] == [True, False]


def test_a_shape_outside_widens_a_derived_profile_and_is_refused_by_a_set_one(
    fake: Fake, tmp_path: Path
) -> None:
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        assert session.run_arrays(feeds(5, 256, 32))["dets"].shape == (5, 1)
    assert fake.profiles[-1]["input"] == ((1, 3, 64, 32), (1, 3, 192, 160), (5, 3, 256, 160))

    narrow = Profile((1, 64, 64), (1, 64, 64), (2, 64, 64))
    with (
        TensorRTBackend(narrow).prepare(graph(tmp_path)) as session,
        pytest.raises(BackendError, match=r"5x64x64 .* outside .* 1x64x64 to 2x64x64, which was"),
    ):
        session.run_arrays(feeds(5, 64, 64))


def test_a_wider_engine_that_cannot_be_made_leaves_the_session_as_it_was(
    fake: Fake, tmp_path: Path
) -> None:
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        bound = session.bind(feeds(2))
        fake.builds = False
        for _ in range(2):  # the second time it is not taken for held
            with pytest.raises(BackendError, match="K exceeds 3840"):
                session.run_arrays(feeds(5, 256, 32))
        np.testing.assert_array_equal(session.run_arrays(feeds(1))["dets"], sums(1))
        with pytest.raises(BackendError, match="K exceeds 3840"):
            session.run_arrays(feeds(5, 256, 32))
        assert bound.run() == RUN_MS
        np.testing.assert_array_equal(bound.fetch()["dets"], sums(2))
        fake.builds, fake.context = True, False
        for _ in range(2):
            with pytest.raises(BackendError, match="no execution context can be made"):
                session.run_arrays(feeds(5, 256, 32))
        with pytest.raises(BackendError, match="no execution context can be made"):
            bound.run()
        fake.context = True
        np.testing.assert_array_equal(bound.fetch()["dets"], sums(2))
        wide = session.run_arrays(feeds(5, 256, 32))["dets"]
        np.testing.assert_array_equal(wide, sums(5, 256, 32))
    with pytest.raises(BackendError, match="closed"):
        bound.fetch()


def test_too_little_device_memory_is_told(fake: Fake, tmp_path: Path) -> None:
    fake.context = False
    with pytest.raises(BackendError, match="device memory does not suffice"):
        TensorRTBackend().prepare(graph(tmp_path))
    fake.context = True
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        fake.host.max_size = 2
        with pytest.raises(BackendError, match="out of device memory"):
            session.run_arrays(feeds(3))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BackendError("out of device memory: 3 MiB"), "out of device memory: 3 MiB"),
        # Whatever it is: the library's bindings would print it and go on.
        (RuntimeError("CUDA error: an illegal address"), "RuntimeError: CUDA error: an illegal"),
    ],
)
def test_an_output_that_gets_no_memory_fails_the_run_and_not_the_next(
    fake: Fake, tmp_path: Path, error: Exception, words: str
) -> None:
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        bound = session.bind(feeds(2))  # the inputs have their memory already
        fake.host.fails = error
        with pytest.raises(BackendError, match=words):
            bound.run()
        # Another reason, or none, is not told with the last one's words.
        fake.host.fails = RuntimeError("something else")
        with pytest.raises(BackendError) as caught:
            bound.run()
        assert words not in str(caught.value)
        fake.host.fails = None
        assert bound.run() == RUN_MS
        np.testing.assert_array_equal(bound.fetch()["dets"], sums(2))


def test_an_output_without_memory_fails_a_run_that_the_library_calls_done(
    fake: Fake, tmp_path: Path
) -> None:
    """Else the outputs would be an earlier run's, or nothing that anybody wrote."""
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        bound = session.bind(feeds(2))
        fake.goes_on, fake.host.fails = True, BackendError("out of device memory: 3 MiB")
        with pytest.raises(BackendError, match=r"model\.onnx: out of device memory: 3 MiB"):
            bound.run()
        fake.host.fails = None
        assert bound.run() == RUN_MS


def artifact_of(path: Path, data: bytes) -> Artifact:
    path.write_bytes(data)
    return Artifact(path, "", False, {})


RANGE = ((1, 3, 64, 64), (1, 3, 96, 64), (2, 3, 96, 96))


def test_a_file_that_is_an_engine_is_run_as_it_is(fake: Fake, tmp_path: Path) -> None:
    dynamic = artifact_of(tmp_path / "net.engine", engine(9, RANGE, ("input",)))
    with TensorRTBackend().prepare(dynamic) as session:
        assert session.artifact.inputs == ("input",)
        assert session.artifact.static_shape is None
        result = session.run_arrays(feeds(2))["dets"]
        np.testing.assert_array_equal(result, sums(2, names="input"))
        with pytest.raises(BackendError, match=r"3x96x64 .* to 2x96x96, which the engine was"):
            session.run_arrays(feeds(3))
    fixed = artifact_of(tmp_path / "net.plan", engine(9, None, shape=(2, 3, 96, 64)))
    with TensorRTBackend().prepare(fixed) as session:
        assert session.artifact.inputs == ("input", "image_shape")
        assert session.artifact.static_shape == (2, 3, 96, 64)
    assert fake.configs == []  # nothing was built
    assert not (tmp_path / "engines").exists()


def test_an_engine_that_is_none_or_of_something_else_is_told(fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    with pytest.raises(BackendError, match=r"net\.engine: this engine does not load(.|\n)*ERROR"):
        TensorRTBackend().prepare(artifact_of(path, WORDLESS))
    assert path.is_file()
    with pytest.raises(BackendError, match="the engine takes image: a detector's takes input"):
        TensorRTBackend().prepare(artifact_of(path, engine(9, RANGE, ("image",))))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("set_output_allocator", r"the output 'dets' takes no allocator"),
        ("set_tensor_address", r"refuses the address of 'input'"),
        ("set_input_shape", r"refuses the shape \(1, 3, 96, 64\) of 'input'"),
        ("execute_async_v3", r"TensorRT, model\.onnx: execution failed"),
    ],
)
def test_what_a_context_does_not_obey_is_said(
    fake: Fake, tmp_path: Path, call: str, words: str
) -> None:
    fake.disobeys = {call}
    with (
        pytest.raises(BackendError, match=words),
        TensorRTBackend().prepare(graph(tmp_path)) as session,
    ):
        session.run_arrays(feeds(1))
    fake.disobeys = set()
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        np.testing.assert_array_equal(session.run_arrays(feeds(1))["dets"], sums(1))


def test_a_shape_input_is_refused_by_name(fake: Fake, tmp_path: Path) -> None:
    fake.shape_inputs = ("image_shape",)
    with pytest.raises(BackendError, match=r"model\.onnx: 'image_shape' is a shape input"):
        TensorRTBackend().prepare(graph(tmp_path))
    fixed = artifact_of(tmp_path / "net.engine", engine(9, RANGE))
    with pytest.raises(BackendError, match=r"net\.engine: 'image_shape' is a shape input"):
        TensorRTBackend().prepare(fixed)


@pytest.mark.parametrize("name", ["input", "dets"])
def test_a_tensor_in_the_hosts_memory_is_refused_by_name(
    fake: Fake, tmp_path: Path, name: str
) -> None:
    fake.on_host = (name,)
    with pytest.raises(BackendError, match=rf"model\.onnx: '{name}' lies in the host's memory"):
        TensorRTBackend().prepare(graph(tmp_path))


def test_what_is_bound_is_on_the_device_when_bind_returns(fake: Fake, tmp_path: Path) -> None:
    """The caller's arrays are its own again, and no copy is left to the first run."""
    arrays = feeds(2)
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        bound = session.bind(arrays)
        assert fake.host.passed == fake.host.clock
        for array in arrays.values():
            array[:] = 1
        bound.run()
        np.testing.assert_array_equal(bound.fetch()["dets"], sums(2))


def test_a_static_engine_refuses_another_shape_by_itself(fake: Fake, tmp_path: Path) -> None:
    """What the artifact says of its shape is not all that guards it."""
    path = tmp_path / "net.plan"
    with TensorRTBackend().prepare(
        artifact_of(path, engine(9, None, shape=(2, 3, 96, 64)))
    ) as session:
        np.testing.assert_array_equal(session.run_arrays(feeds(2))["dets"], sums(2))
        session.artifact = graph(tmp_path)
        with pytest.raises(BackendError, match=r"refuses the shape \(1, 3, 96, 64\) of 'input'"):
            session.run_arrays(feeds(1))


def test_nothing_is_fetched_before_a_run(fake: Fake, tmp_path: Path) -> None:
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        bound = session.bind(feeds(2))
        with pytest.raises(BackendError, match="nothing ran, nothing to fetch"):
            bound.fetch()
        bound.run()
        np.testing.assert_array_equal(bound.fetch()["dets"], sums(2))


def test_device_memory_that_is_not_aligned_fails_the_run(fake: Fake, tmp_path: Path) -> None:
    with TensorRTBackend().prepare(graph(tmp_path)) as session:
        bound = session.bind(feeds(2))
        empty = fake.host.empty
        fake.host.empty = lambda size: Buffer(empty(size).address + 4, size, None)  # type: ignore[method-assign]
        with pytest.raises(BackendError, match="device memory is not aligned to 256 bytes"):
            bound.run()
