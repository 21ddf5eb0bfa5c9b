"""How long the backend takes for a batch, and PyTorch for the same one in the same run.

The two take turns, so that what slows the machine down slows both; the speed-up is the median of
the rounds' ratios. A round works through several batches, as images differ in how much there is to
find. Nothing is too slow here: ``--onnxdet-baseline`` compares with an earlier run's speed-ups.

pytest-benchmark shows the times, saves and compares them, and its ``--benchmark-max-time`` and
``--benchmark-min-rounds`` say how long to measure. The graph's time is without copies to and from a
device: inputs are bound. The speed-up counts them.
"""

import copy
import itertools
import os

import pytest

from pytest_onnxdet.core.cpu import cores
from pytest_onnxdet.measure.latency import (
    GRAPH,
    MOST_ROUNDS,
    TORCH,
    detection_subjects,
    measure,
    torch_device,
    torch_threads,
)

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
    case, bench, threads = onnxdet_case, onnxdet_workbench, cores()
    seconds, rounds = how_long
    batches = list(itertools.islice(bench.batches(case), BATCHES))
    reference = bench.reference(case.spec)
    with torch_threads(threads):
        measured = measure(
            detection_subjects(onnxdet_session, reference, batches),
            seconds=seconds,
            least=rounds,
            most=max(rounds, MOST_ROUNDS),
            calls=len(batches),
        )
    eager = copy.copy(benchmark)
    for row, name, subject in ((eager, TORCH, TORCH), (benchmark, case.backend.name, GRAPH)):
        row.name = f"{name} {case.shape} beside {case.id}" if row is eager else case.id
        row.fullname = f"{row.fullname} {name}" if row is eager else row.fullname
        row.group = f"{case.spec.name} batch {case.batch}"
        # pytest-benchmark saves these, and a case is nothing that JSON knows.
        row.param, row.params = case.id, {"onnxdet_case": case.id}
        row.pedantic(lambda: None, rounds=1)
        row.stats.stats.data[:] = [ms / 1e3 for ms in measured.timings[subject].times]
    onnxdet_record(measured.figures(), threads=threads, torch_device=torch_device(reference))
