"""How long the backend takes for a batch, and PyTorch for the same one in the same run.

The two take turns, so that what slows the machine down slows both; the speed-up is the median of
the rounds' ratios. A round works through several batches, as images differ in how much there is to
find. Nothing is too slow here: ``--onnxdet-baseline`` compares with an earlier run's speed-ups.

pytest-benchmark calls the graph, shows the times of rounds, saves and compares them, and its
``--benchmark-max-time`` and ``--benchmark-min-rounds`` say how long to measure. PyTorch's turn is
the graph's set-up; both sides' figures, for a batch, are in the row's ``extra_info``. The graph's
time is without copies to and from a device: inputs are bound. The speed-up counts them. What the
timed runs left is compared with a plain run.
"""

import itertools
import os

import pytest

from pytest_onnxdet.core.cpu import cores
from pytest_onnxdet.measure.latency import bind_all, detection_subjects, require_same
from pytest_onnxdet.measure.turns import GRAPH, MAX_ROUNDS, measure
from pytest_onnxdet.reference.threads import torch_threads

BATCHES = 3


@pytest.fixture(scope="session")
def how_long(request):
    """Seconds and least rounds of a case; skips before anything is built for nothing."""
    config = request.config
    if not config.pluginmanager.hasplugin("benchmark"):
        pytest.skip("latency needs pytest-benchmark: pip install pytest-benchmark")
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip(
            "latency is not measured under pytest-xdist, whose workers slow each other down: "
            "run pytest --onnxdet -m latency without -n"
        )
    if config.getoption("benchmark_disable") or config.getoption("benchmark_skip"):
        pytest.skip("latency is switched off by pytest-benchmark's options")
    options = (config.getoption(f"benchmark_{name}") for name in ("max_time", "min_rounds"))
    return float(next(options)), int(next(options))


@pytest.fixture
def benchmark(how_long, request):
    """pytest-benchmark's own fixture, of which ``how_long`` knows that it is there."""
    return request.getfixturevalue("benchmark")


@pytest.fixture
def onnxdet_session(how_long, onnxdet_case, onnxdet_workbench):
    """A session of as many threads as PyTorch gets; the shared one's are the runtime's choice."""
    artifact = onnxdet_workbench.artifact(onnxdet_case)
    with onnxdet_case.backend.prepare(artifact, threads=cores()) as session:
        yield session


@pytest.mark.latency
def test_latency(
    how_long, onnxdet_case, onnxdet_workbench, onnxdet_session, benchmark, onnxdet_record
):
    case, bench, session = onnxdet_case, onnxdet_workbench, onnxdet_session
    seconds, rounds = how_long
    batches = list(itertools.islice(bench.batches(case), BATCHES))
    bound, reference = bind_all(session, batches), bench.reference(case.spec)
    benchmark.name, benchmark.group = case.id, f"{case.spec.name} batch {case.batch}"
    # pytest-benchmark saves these, and a case is nothing that JSON knows.
    benchmark.param, benchmark.params = case.id, {"onnxdet_case": case.id}

    def repeat(call, setup, count):
        benchmark.pedantic(call, setup=setup, rounds=count, iterations=1)

    with torch_threads(cores()):
        measured = measure(
            detection_subjects(session, reference.bare_call(batches), batches, bound),
            seconds=seconds,
            min_rounds=rounds,
            max_rounds=max(rounds, MAX_ROUNDS),
            calls=len(batches),
            timed=GRAPH,
            repeat=repeat,
        )
    tolerance = case.spec.tolerance(case.backend.name, case.precision, session.device)
    require_same(session, bound, batches, tolerance)
    figures = {
        **measured.figures(),
        "threads": cores(),
        "torch_device": reference.device,
    }
    benchmark.extra_info.update(figures, batches_in_a_round=len(batches))
    onnxdet_record(figures)
