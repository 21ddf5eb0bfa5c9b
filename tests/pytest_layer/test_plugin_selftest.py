"""``--onnxdet-selftest``: what it asks for, and which tests there are then."""

import pytest

from pytest_onnxdet.pytest_layer.stash import SUITE
from pytest_onnxdet.pytest_layer.workers import CaseScheduling
from pytest_onnxdet.run.cases import Settings


def settings(project: pytest.Pytester, *arguments: str) -> Settings:
    return project.parseconfigure("--onnxdet", *arguments).stash[SUITE].settings


def test_quick_is_few_images_in_batches_of_three(project: pytest.Pytester) -> None:
    assert settings(project).selftest == ""
    quick = settings(project, "--onnxdet-selftest")
    assert (quick.selftest, quick.limit, quick.batches) == ("quick", 6, (3,))
    assert quick.shapes == ("dynamic",)
    full = settings(project, "--onnxdet-selftest=full")
    assert (full.selftest, full.limit, full.batches) == ("full", None, (3,))
    own = settings(
        project,
        "--onnxdet-selftest",
        "--onnxdet-limit=9",
        "--onnxdet-batch=2,1",
        "--onnxdet-shape=static",
    )
    assert (own.limit, own.batches, own.shapes) == (9, (2, 1), ("static",))


def test_ini_twin(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nonnxdet_selftest = full\n")
    assert settings(project).selftest == "full"


def test_another_extent_is_refused(project: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError, match=r"onnxdet-selftest: 'some': give.*quick, full"):
        project.parseconfigure("--onnxdet", "--onnxdet-selftest=some")


def test_one_test_for_each_model_and_fault_and_nothing_else(project: pytest.Pytester) -> None:
    result = project.runpytest(
        "--onnxdet", "--onnxdet-selftest", "--onnxdet-model=retinanet", "--collect-only", "-q"
    )
    ids = [line for line in result.outlines if "::" in line]
    assert len(ids) > 100
    assert all("::test_selftest[retinanet-" in line for line in ids)
    assert any(line.endswith("[retinanet-scale_weight_1.0004]") for line in ids)


def test_full_tries_several_places_of_each_fault(project: pytest.Pytester) -> None:
    result = project.runpytest(
        "--onnxdet", "--onnxdet-selftest=full", "--onnxdet-model=ssd", "--collect-only", "-q"
    )
    ids = {line.rpartition("[")[2] for line in result.outlines if "::" in line}
    assert {"ssd-weight]", "ssd-weight@2]", "ssd-weight@4]"} <= ids


def test_a_run_without_it_has_none_of_it(project: pytest.Pytester) -> None:
    result = project.runpytest("--onnxdet", "--onnxdet-model=ssd", "--collect-only", "-q")
    result.stdout.no_fnmatch_line("*test_selftest*")
    result.stdout.fnmatch_lines(["*test_parity*"])


def test_a_model_and_its_mutants_stay_with_one_worker(project: pytest.Pytester) -> None:
    config = project.parseconfigure("--onnxdet", "--onnxdet-selftest", "--onnxdet-model=ssd,fcos")
    scheduling = CaseScheduling.__new__(CaseScheduling)
    CaseScheduling.remember(scheduling, config.stash[SUITE].cases)
    scopes = {
        scheduling._split_scope(f"test_selftest.py::test_selftest[{name}]")
        for name in ("ssd-weight", "ssd-scale_weight_1.0004@2", "ssd-onnxruntime-dynamic-b3-cut")
    }
    assert len(scopes) == 1
    other = scheduling._split_scope("test_selftest.py::test_selftest[fcos-weight]")
    assert other not in scopes
    assert scheduling._split_scope("test_else.py::test_it[a-b]") == "test_else.py::test_it[a-b]"
