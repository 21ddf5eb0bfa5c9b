"""A backend that builds ahead of time and cannot run here: what is checked, what is skipped."""

import pytest
from plugin_output import cases, ids

WHY = "no GPU: buildrt only builds here"

BUILDER = f"""

class GpuSession(ToySession):
    device = "cuda"


class Builder(Toy):
    name = "builder"
    builds = True

    def unrunnable(self):
        return None if "TOY_GPU" in os.environ else {WHY!r}

    def build(self, artifact):
        return {{"seconds": 0.5, "engine_bytes": artifact.path.stat().st_size, "layers": 3}}

    def prepare(self, artifact, threads=None):
        assert self.unrunnable() is None, "a session was opened where there can be none"
        return GpuSession(artifact)


def pytest_onnxdet_backends(registry):
    registry.register(Toy())
    registry.register(Builder())
"""

BUILD_TEST = """

from pytest_onnxdet.verify.build import check_build


@pytest.mark.build
def test_build(onnxdet_case, onnxdet_artifact, onnxdet_record):
    built = onnxdet_case.backend.build(onnxdet_artifact)
    onnxdet_record(check_build(built, case_id=onnxdet_case.id))
"""


@pytest.fixture
def building(toy: pytest.Pytester) -> pytest.Pytester:
    """The toy project with a second backend, which builds and does not run."""
    conftest, tests = toy.path / "conftest.py", toy.path / "test_graphs.py"
    conftest.write_text(conftest.read_text() + BUILDER)
    tests.write_text(tests.read_text() + BUILD_TEST)
    return toy


def test_what_cannot_run_is_built_and_the_rest_skipped_with_the_reason(
    building: pytest.Pytester,
) -> None:
    result = building.runpytest(
        "--onnxdet", "-m", "builder", "--onnxdet-report=out", "-rs", "test_graphs.py"
    )

    result.assert_outcomes(passed=16, skipped=8)
    assert result.ret == pytest.ExitCode.OK
    results = cases(building.path / "out")
    outcomes = {(case["check"], case["outcome"], case["reason"]) for case in results}
    assert outcomes == {
        ("export", "passed", ""),
        ("build", "passed", ""),
        ("parity", "skipped", WHY),
    }
    built = [case["metrics"] for case in results if case["check"] == "build"]
    assert built == [{"seconds": 0.5, "engine_bytes": 7, "layers": 3}] * 8
    # A dynamic graph serves both batch sizes: 2 models, each 2 static engines and a dynamic one.
    result.stdout.fnmatch_lines(["*6 of 6 engines built*"])


def test_the_shipped_suite_on_it(building: pytest.Pytester) -> None:
    names = ids(building.runpytest("--onnxdet", "--collect-only", "-q", "-m", "build and one_net"))

    assert [name.rpartition("::")[2] for name in names] == [
        f"test_build[one_net-builder-{shape}-b{batch}]"
        for shape in ("static", "dynamic")
        for batch in (1, 2)
    ]


@pytest.mark.parametrize("fixture", ["onnxdet_found", "onnxdet_session"])
def test_a_test_that_runs_something_is_skipped_by_any_fixture_that_does(
    building: pytest.Pytester, fixture: str
) -> None:
    building.makepyfile(
        test_graphs=f"""
        import pytest

        @pytest.mark.parity
        def test_ours(onnxdet_reference, {fixture}, onnxdet_record):
            onnxdet_record(images=1)
        """
    )

    result = building.runpytest("--onnxdet", "-m", "builder", "-rs", "test_graphs.py")

    result.assert_outcomes(skipped=8)
    result.stdout.fnmatch_lines([f"SKIPPED*{WHY}"])


@pytest.mark.parametrize("ini", ["", "empty_parameter_set_mark = fail_at_collect\n"])
def test_without_a_backend_that_builds_there_is_no_build_test(
    toy: pytest.Pytester, ini: str
) -> None:
    tests, settings = toy.path / "test_graphs.py", toy.path / "tox.ini"
    tests.write_text(tests.read_text() + BUILD_TEST)
    settings.write_text(f"{settings.read_text()}\n{ini}")

    result = toy.runpytest("--onnxdet", "-m", "toy or build", "test_graphs.py")

    result.assert_outcomes(passed=16, deselected=17)
    assert result.ret == pytest.ExitCode.OK


def test_a_marker_of_the_same_name_on_another_test_is_its_own_business(
    building: pytest.Pytester,
) -> None:
    building.makepyfile(
        test_wheel="""
        import pytest

        @pytest.mark.build
        def test_the_wheel_builds():
            pass
        """
    )

    result = building.runpytest("--onnxdet", "-m", "build", "test_wheel.py")

    result.assert_outcomes(passed=1)


def test_a_gpu_that_is_gone_is_a_regression_from_a_baseline(
    building: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--onnxdet", "-m", "builder or toy", "test_graphs.py")
    monkeypatch.setenv("TOY_GPU", "1")
    building.runpytest(*arguments, "--onnxdet-report=out").assert_outcomes(passed=40)
    assert {case["device"] for case in cases(building.path / "out")} == {"cuda", "toy-chip"}
    same = building.runpytest(*arguments, "--onnxdet-baseline=out/report.json")
    assert same.ret == pytest.ExitCode.OK
    monkeypatch.delenv("TOY_GPU")

    result = building.runpytest(*arguments, "--onnxdet-baseline=out/report.json")

    result.assert_outcomes(passed=32, skipped=8)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["Baseline: 32 checks compared, 8 figures regressed*", "*parity*passed -> skipped*FAIL"]
    )
