"""What a run says of its cases, in the terminal, in the exit code and in the report."""

import json
import re

import pytest
import toy_project
from plugin_output import cases

TOY = ("--onnxdet", "-m", "toy")


def with_test(project: pytest.Pytester, body: str) -> None:
    project.makepyfile(test_graphs=body)


def test_a_good_run(toy: pytest.Pytester) -> None:
    result = toy.runpytest(*TOY, "--onnxdet-report=out", "test_graphs.py")

    result.assert_outcomes(passed=16)
    assert result.ret == pytest.ExitCode.OK
    results = cases(toy.path / "out")
    assert len(results) == 16
    assert results[0] == {
        "id": "one_net-toy-static-b1",
        "model": "one_net",
        "profile": "toy",
        "backend": "toy",
        "device": "toy-chip",
        "shape": "static",
        "batch": 1,
        "precision": "fp32",
        "check": "export",
        "outcome": "passed",
        "reason": "",
        "metrics": {"bytes": 7},
    }
    assert results[1]["metrics"] == {"max_box_px": 0.0, "detections": 1}
    for name in ("report.json", "report.md"):
        assert (toy.path / "out" / name).is_file()
    assert json.loads((toy.path / "out/report.json").read_text())["environment"]["versions"]
    result.stdout.fnmatch_lines(
        ["*= onnxdet =*", "*16 checks of 8 cases: 16 passed*", "Report: out"]
    )
    result.stdout.fnmatch_lines(
        ["onnxdet: * cases of profile toy (2 models, * backends, 2 shapes, 2 batch sizes)"]
    )


WHY = "absentrt is not installed: pip install absentrt"


def test_a_missing_backend_nobody_asked_for_makes_no_tests_and_is_named(
    toy: pytest.Pytester,
) -> None:
    result = toy.runpytest(
        "--onnxdet", "-m", "toy or absent", "--onnxdet-report=out", "test_graphs.py"
    )

    result.assert_outcomes(passed=16, deselected=16)  # those of ONNX Runtime
    result.stdout.fnmatch_lines([f"onnxdet: without absent: {WHY}"])
    result.stdout.fnmatch_lines([f"Without absent: {WHY}"])
    assert {case["backend"] for case in cases(toy.path / "out")} == {"toy"}
    assert json.loads((toy.path / "out/report.json").read_text())["absent"] == {"absent": WHY}
    for name in ("report.md", "report.html"):
        assert f"Without absent: {WHY}" in (toy.path / "out" / name).read_text()


def test_a_run_of_a_missing_backend_alone_is_not_a_success(toy: pytest.Pytester) -> None:
    result = toy.runpytest("--onnxdet", "-m", "absent", "test_graphs.py")

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["Nothing was verified: no check ran.", f"Without absent: {WHY}"])


def test_a_run_in_which_every_case_is_skipped_is_not_a_success(toy: pytest.Pytester) -> None:
    with_test(
        toy,
        """
        import pytest

        @pytest.mark.parity
        def test_parity(onnxdet_case):
            pytest.skip("no time")
        """,
    )

    result = toy.runpytest(*TOY, "test_graphs.py")

    result.assert_outcomes(skipped=8)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["Nothing was verified*", "*Not run: 8 checks (*): no time"])


def test_a_run_without_any_backend_says_what_is_missing(toy: pytest.Pytester) -> None:
    toy.makeconftest(
        toy_project.CONFTEST.replace("registry.register(Toy())", "registry.entries.clear()")
    )

    result = toy.runpytest("--onnxdet", "test_graphs.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*no backend is here to run on: backend 'absent': {WHY}"])


def test_a_precision_of_a_missing_backend_says_that_it_is_missing(toy: pytest.Pytester) -> None:
    result = toy.runpytest("--onnxdet", "--onnxdet-precision=fp16", "test_graphs.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*no precision 'fp16' in *; backend 'absent': {WHY}"])


@pytest.mark.parametrize("arguments", [(), ("-n2",)])
def test_a_backend_that_is_gone_since_the_baseline_is_skipped_and_a_regression(
    toy: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    chosen = ("--onnxdet", "-m", "toy or absent", "test_graphs.py", *arguments)
    present = toy_project.CONFTEST.replace(f'return "{WHY}"', "return None")
    toy.makeconftest(present)
    before = toy.runpytest_subprocess(*chosen, "--onnxdet-report=out")
    before.assert_outcomes(passed=32)
    toy.makeconftest(toy_project.CONFTEST)

    result = toy.runpytest_subprocess(*chosen, "--onnxdet-baseline=out/report.json")

    result.assert_outcomes(passed=16, skipped=16)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Baseline: 16 checks compared, 16 figures regressed*"])


def test_a_backend_that_never_ran_is_not_asked_for_by_a_baseline(toy: pytest.Pytester) -> None:
    toy.runpytest(*TOY, "--onnxdet-report=out", "test_graphs.py").assert_outcomes(passed=16)

    result = toy.runpytest(*TOY, "--onnxdet-baseline=out/report.json", "test_graphs.py")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([f"onnxdet: without absent: {WHY}"])


@pytest.mark.parametrize("arguments", [(), ("--onnxdet-report=out",), ("-rs",)])
def test_a_good_run_ends_in_25_lines(toy: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    result = toy.runpytest("--onnxdet", "-m", "toy", *arguments, "test_graphs.py")

    lines = result.outlines
    last = max(i for i, line in enumerate(lines) if line.endswith("[100%]"))
    assert len([line for line in lines[last + 1 :] if line]) > 5
    assert len(lines[last + 1 :]) <= 25


def test_a_run_without_any_case_is_not_a_success(toy: pytest.Pytester) -> None:
    toy.makepyfile(test_own="def test_own(): pass")

    result = toy.runpytest("--onnxdet", "test_own.py")

    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["Nothing was verified*"])


def test_a_check_that_recorded_nothing_is_an_error(toy: pytest.Pytester) -> None:
    with_test(
        toy,
        """
        import pytest

        @pytest.mark.parity
        def test_parity(onnxdet_found):
            for found in []:
                assert found
        """,
    )

    result = toy.runpytest(
        "--onnxdet", "-m", "toy and one_net and static", "--onnxdet-report=out", "test_graphs.py"
    )

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["one_net-toy-static-b1: parity compared nothing: it passed *"])
    assert {case["outcome"] for case in cases(toy.path / "out")} == {"error"}


def test_a_test_without_a_check_may_record_nothing(toy: pytest.Pytester) -> None:
    with_test(toy, "def test_small(onnxdet_artifact): assert onnxdet_artifact.path.exists()")

    result = toy.runpytest(
        "--onnxdet", "-m", "toy and one_net and static", "--onnxdet-report=out", "test_graphs.py"
    )

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)
    assert [case["check"] for case in cases(toy.path / "out")] == ["small", "small"]


def test_a_test_without_a_check_that_records_is_reported_by_its_name(
    toy: pytest.Pytester,
) -> None:
    with_test(toy, "def test_size(onnxdet_case, onnxdet_record): onnxdet_record(megabytes=3)")

    result = toy.runpytest(*TOY, "--onnxdet-report=out", "test_graphs.py")

    assert result.ret == pytest.ExitCode.OK
    assert {(c["check"], c["metrics"]["megabytes"]) for c in cases(toy.path / "out")} == {
        ("size", 3)
    }


FAILURES = {
    "CheckFailed": (
        "pytest_onnxdet.verify.checks",
        'CheckFailed("one_net: 3 boxes moved", {"max_box_px": 4.5}, "parity")',
        "parity",
        "one_net: 3 boxes moved",
    ),
    "DataError": (
        "pytest_onnxdet.data.batches",
        'DataError("cat.png: cannot be read as an image")',
        "data",
        "cat.png: cannot be read as an image",
    ),
    "ExportError": (
        "pytest_onnxdet.export.exporter",
        'ExportError("cummax does not export")',
        "export",
        "cummax does not export",
    ),
    "BackendError": (
        "pytest_onnxdet.backends",
        'BackendError("the provider did not load")',
        "runtime",
        "the provider did not load",
    ),
    "StoreError": (
        "pytest_onnxdet.core.store",
        'StoreError("the cache folder is full")',
        "cache",
        "the cache folder is full",
    ),
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("phase", ["setup", "call"])
def test_a_failure_reads_as_stage_and_message(toy: pytest.Pytester, kind: str, phase: str) -> None:
    module, raised, stage, message = FAILURES[kind]
    with_test(
        toy,
        f"""
        import pytest
        from {module} import {kind}

        @pytest.fixture(scope="session")
        def broken(onnxdet_case):
            if {phase == "setup"}:
                raise {raised}

        @pytest.mark.parity
        def test_parity(onnxdet_case, broken):
            raise {raised}
        """,
    )

    result = toy.runpytest(
        "--onnxdet",
        "-m",
        "toy and one_net and static and batch1",
        "--onnxdet-report=out",
        "test_graphs.py",
    )

    text = result.stdout.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert re.search(rf"^stage: {stage}\n{re.escape(message)}$", text, re.MULTILINE), text
    assert "raise" not in text
    assert "Traceback" not in text
    (case,) = cases(toy.path / "out")
    assert case["outcome"] == "failed"
    assert case["reason"] == f"stage: {stage}\n{message}"
    assert case["metrics"] == ({"max_box_px": 4.5} if kind == "CheckFailed" else {})


def test_a_head_without_a_lowering_is_recorded_as_that_stage(toy: pytest.Pytester) -> None:
    """Refused by the real exporter, which wraps what the families raise."""
    with_test(
        toy,
        """
        import pytest
        from torch import nn
        from pytest_onnxdet.export.exporter import export_detector
        from pytest_onnxdet.export.options import ExportOptions

        class UnheardOfHead(nn.Module):
            pass

        @pytest.mark.export
        def test_export(onnxdet_case, onnxdet_workbench, tmp_path):
            detector = nn.Module()
            detector.bbox_head = UnheardOfHead()
            onnxdet_workbench._once(
                onnxdet_case.spec,
                ("artifact",),
                lambda: export_detector(detector, ExportOptions(), tmp_path / "a.onnx"),
            )
        """,
    )

    chosen = ("-m", "toy and one_net and static", "--onnxdet-report=out", "test_graphs.py")
    result = toy.runpytest("--onnxdet", *chosen)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    first, again = cases(toy.path / "out")  # the second time from memory
    for case in (first, again):
        assert case["check"] == "export" and case["outcome"] == "failed"
        assert case["reason"].startswith("stage: lowering\n")
        assert "UnheardOfHead has no lowering" in case["reason"]


def test_full_trace_keeps_the_traceback(toy: pytest.Pytester) -> None:
    with_test(
        toy,
        """
        from pytest_onnxdet.backends import BackendError

        def test_it(onnxdet_case):
            raise BackendError("no")
        """,
    )

    result = toy.runpytest(
        "--onnxdet", "--full-trace", "-m", "toy and one_net and static and batch1", "test_graphs.py"
    )

    result.stdout.fnmatch_lines(['*raise BackendError("no")*'])


def test_a_surprise_keeps_its_traceback(toy: pytest.Pytester) -> None:
    with_test(
        toy,
        """
        import pytest

        @pytest.mark.parity
        def test_parity(onnxdet_case):
            assert 1 == 2

        @pytest.fixture
        def broken(onnxdet_case):
            raise RuntimeError("out of luck")

        @pytest.mark.export
        def test_export(broken):
            pass
        """,
    )

    result = toy.runpytest(
        "--onnxdet",
        "-m",
        "toy and one_net and static and batch1",
        "--onnxdet-report=out",
        "test_graphs.py",
    )

    result.stdout.fnmatch_lines(["*assert 1 == 2*"])
    export, parity = cases(toy.path / "out")
    assert (export["outcome"], export["reason"]) == ("error", "RuntimeError: out of luck")
    assert parity["outcome"] == "failed"
    assert parity["reason"].startswith("AssertionError: assert 1 == 2")


def test_expected_failures_and_failing_teardowns(toy: pytest.Pytester) -> None:
    with_test(
        toy,
        """
        import pytest

        @pytest.mark.export
        @pytest.mark.xfail(reason="no kernel yet")
        def test_export(onnxdet_case):
            assert False

        @pytest.fixture
        def late(onnxdet_case):
            yield
            raise RuntimeError("did not close")

        @pytest.mark.parity
        def test_parity(late, onnxdet_record):
            onnxdet_record(images=1)
        """,
    )

    toy.runpytest(
        "--onnxdet",
        "-m",
        "toy and one_net and static and batch1",
        "--onnxdet-report=out",
        "test_graphs.py",
    )

    export, parity = cases(toy.path / "out")
    assert (export["outcome"], export["reason"]) == ("xfailed", "no kernel yet")
    assert (parity["outcome"], parity["reason"]) == ("error", "RuntimeError: did not close")


def test_a_figure_the_report_cannot_hold_fails_its_test(toy: pytest.Pytester) -> None:
    with_test(toy, "def test_it(onnxdet_case, onnxdet_record): onnxdet_record(what=object())")

    result = toy.runpytest(
        "--onnxdet", "-m", "toy and one_net and static and batch1", "test_graphs.py"
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*metric 'what' is a object, which JSON cannot hold*"])


def test_collecting_only_writes_and_claims_nothing(toy: pytest.Pytester) -> None:
    result = toy.runpytest(*TOY, "--collect-only", "--onnxdet-report=out", "test_graphs.py")

    assert result.ret == pytest.ExitCode.OK
    assert not (toy.path / "out/report.json").exists()
    assert "Nothing was verified" not in result.stdout.str()


def test_a_case_asked_for_by_name_only_is_explained(toy: pytest.Pytester) -> None:
    with_test(toy, "def test_it(request): request.getfixturevalue('onnxdet_case')")

    result = toy.runpytest("--onnxdet", "test_graphs.py")

    result.stdout.fnmatch_lines(["*take the fixture as an argument of the test*"])


@pytest.mark.parametrize(
    ("checkpoints", "profile", "models", "said"),
    [("none", "structure", 12, True), (None, "mini", 16, False)],
)
def test_the_header_says_whether_weights_are_random(
    toy: pytest.Pytester, checkpoints: str | None, profile: str, models: int, said: bool
) -> None:
    # The built-in models of either profile: collecting them builds none.
    arguments = ["--onnxdet-profile=full", f"--onnxdet-checkpoints={checkpoints}"]
    if checkpoints is None:
        arguments = ["--onnxdet-profile=mini"]

    result = toy.runpytest("--onnxdet", "--collect-only", *arguments, "test_graphs.py")

    result.stdout.fnmatch_lines([f"onnxdet: * cases of profile {profile} ({models} models, *"])
    assert ("onnxdet: random weights: " in result.stdout.str()) is said
