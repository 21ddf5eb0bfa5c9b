"""Under pytest-xdist: the same results, and nothing made twice."""

from collections import OrderedDict
from pathlib import Path

import pytest
import toy_project
from plugin_output import cases

from pytest_onnxdet.pytest_layer.workers import CaseScheduling


def test_workers_give_the_same_records(toy: pytest.Pytester) -> None:
    arguments = ("--onnxdet", "-m", "toy or absent", "test_graphs.py")
    toy.runpytest_subprocess(*arguments, "--onnxdet-report=alone").assert_outcomes(passed=16)

    shared = toy.runpytest_subprocess(*arguments, "--onnxdet-report=shared", "-n2")

    assert shared.ret == pytest.ExitCode.OK
    assert cases(toy.path / "shared") == cases(toy.path / "alone")
    shared.stdout.fnmatch_lines(["Without absent: absentrt is not installed: *"])


def test_every_graph_is_exported_once_among_four_workers(toy: pytest.Pytester) -> None:
    result = toy.runpytest_subprocess("--onnxdet", "-m", "toy", "-n4", "test_graphs.py")

    result.assert_outcomes(passed=16)
    exports = (toy.path / "exports.log").read_text().splitlines()
    # Static graphs differ by batch size, a dynamic one serves both.
    assert sorted(exports) == sorted(
        f"{model} {shape}"
        for model in ("one_net", "two_net")
        for shape in ("static", "static", "dynamic")
    )


def test_every_graph_is_exported_once_in_one_process(toy: pytest.Pytester) -> None:
    toy.runpytest("--onnxdet", "-m", "toy", "test_graphs.py").assert_outcomes(passed=16)

    assert len((toy.path / "exports.log").read_text().splitlines()) == 6


def workers(path: Path) -> dict[str, set[str]]:
    """Which workers ran the tests of each model and shape mode, from a run's log."""
    seen: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        group, worker = line.rsplit(" ", 1)
        seen.setdefault(group, set()).add(worker)
    return seen


@pytest.mark.parametrize(("arguments", "together"), [((), True), (("--dist=worksteal",), False)])
def test_a_models_tests_stay_with_one_worker(
    toy: pytest.Pytester, arguments: tuple[str, ...], together: bool
) -> None:
    toy.makepyfile(
        test_graphs="""
        import os
        import time
        import pytest

        @pytest.mark.parametrize("part", range(8))
        def test_else(part):
            time.sleep(0.01)

        def test_one(onnxdet_case):
            with open("workers.log", "a") as log:
                worker = os.environ["PYTEST_XDIST_WORKER"]
                log.write(f"{onnxdet_case.spec.name} {onnxdet_case.shape} {worker}\\n")
            time.sleep(0.05)

        test_two = test_one
        """
    )

    result = toy.runpytest_subprocess(
        "--onnxdet", "-m", "toy or not onnxdet", "-n2", *arguments, "test_graphs.py"
    )

    result.assert_outcomes(passed=24)
    seen = workers(toy.path / "workers.log")
    assert len(seen) == 4
    assert set().union(*seen.values()) == {"gw0", "gw1"}
    if together:
        assert all(len(names) == 1 for names in seen.values()), seen


def test_both_shape_modes_of_a_model_go_to_one_worker_but_for_the_last() -> None:
    """What one knows of the model's images the other need not compute."""
    models = [f"{letter}_net" for letter in "abcde"]
    scheduling = CaseScheduling.__new__(CaseScheduling)
    scheduling.workqueue = OrderedDict(
        (f"{model} {shape}", {f"test[{model}-{shape}]": False})
        for shape in ("static", "dynamic")
        for model in models
    )
    workers = [Worker(), Worker()]
    scheduling.assigned_work = {worker: {} for worker in workers}
    scheduling.registered_collections = {
        worker: [test for tests in scheduling.workqueue.values() for test in tests]
        for worker in workers
    }
    for turn in range(10):
        scheduling._assign_work_unit(workers[turn % 2])

    groups = [list(scheduling.assigned_work[worker]) for worker in workers]
    assert groups == [
        ["a_net static", "a_net dynamic", "c_net static", "c_net dynamic", "e_net static"],
        ["b_net static", "b_net dynamic", "d_net static", "d_net dynamic", "e_net dynamic"],
    ]


class Worker:
    """xdist's controller of a worker, as far as it is handed tests."""

    def send_runtest_some(self, indices: list[int]) -> None:
        assert indices


def test_workers_run_the_shipped_suite_with_the_projects_conftest(toy: pytest.Pytester) -> None:
    # Collected by every worker: the models come from a conftest beside which no test is run.
    toy.makeconftest(f"{toy_project.CONFTEST}\nToy.unrunnable = lambda self: 'no chip'\n")
    chosen = "toy and one_net and static and batch1 and not export"

    result = toy.runpytest_subprocess("--onnxdet", "-n2", "-m", chosen, "--onnxdet-report=out")

    results = cases(toy.path / "out")
    assert [case["check"] for case in results] == ["parity", "accuracy", "latency"]
    assert {(case["outcome"], case["reason"]) for case in results} == {("skipped", "no chip")}
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize("place", ["export-one_net-static-b1", "parity-two_net-dynamic-b2"])
@pytest.mark.parametrize("workers", ["-n1", "-n2"])
def test_a_worker_that_dies_is_an_outcome_and_the_rest_goes_on(
    toy: pytest.Pytester, place: str, workers: str
) -> None:
    toy.makepyfile(
        test_graphs=f"""
        import os
        import pytest

        def ran(case, check):
            name = f"{{check}}-{{case.spec.name}}-{{case.shape}}-b{{case.batch}}"
            with open("ran.log", "a") as log:
                log.write(name + "\\n")
            if name == {place!r}:
                os._exit(11)

        @pytest.mark.export
        def test_export(onnxdet_case, onnxdet_record):
            ran(onnxdet_case, "export")
            onnxdet_record(bytes=1)

        @pytest.mark.parity
        def test_parity(onnxdet_case, onnxdet_record):
            ran(onnxdet_case, "parity")
            onnxdet_record(images=1)
        """
    )

    result = toy.runpytest_subprocess(
        "--onnxdet", workers, "-m", "toy", "--onnxdet-report=out", "test_graphs.py", timeout=300
    )

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=15, failed=1)
    ran = (toy.path / "ran.log").read_text().splitlines()
    assert len(ran) == len(set(ran)) == 16
    (crashed,) = (case for case in cases(toy.path / "out") if case["outcome"] != "passed")
    assert crashed["outcome"] == "crashed"
    assert f"{crashed['check']}-{crashed['model']}-{crashed['shape']}-b{crashed['batch']}" == place
    assert "crashed while running" in crashed["reason"]
    result.stdout.fnmatch_lines(["16 checks of 8 cases: 15 passed, 1 crashed.", "*(crashed)"])


def test_latency_that_workers_do_not_measure_is_no_regression_from_a_baseline(
    toy: pytest.Pytester,
) -> None:
    tests = toy.path / "test_graphs.py"
    tests.write_text(
        tests.read_text()
        + """

import os


@pytest.mark.latency
def test_latency(onnxdet_session, onnxdet_record):
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("not measured under pytest-xdist")
    onnxdet_record(ms=1.0, torch_ms=2.0, speedup=2.0, iqr=0.01, rounds=50)
"""
    )
    arguments = ("--onnxdet", "-m", "toy and one_net", "test_graphs.py")
    alone = toy.runpytest_subprocess(*arguments, "--onnxdet-report=out")
    alone.assert_outcomes(passed=12)

    result = toy.runpytest_subprocess(*arguments, "-n2", "--onnxdet-baseline=out/report.json")

    result.assert_outcomes(passed=8, skipped=4)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "Baseline: 8 checks compared, 0 figures regressed, 0 moved otherwise, 4 not compared.",
            "*latency*passed -> skipped*not compared",
        ]
    )
