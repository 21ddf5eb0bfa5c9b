"""Failures that are known: excused until a day, strictly."""

from datetime import date, timedelta

import pytest
from plugin_output import cases

KNOWN = """
from datetime import date
from dataclasses import replace
from pytest_onnxdet.models.spec import KnownFailure




def pytest_onnxdet_models(registry):
    known = KnownFailure({check!r}, "boxes are off", "#12", date.fromisoformat({expires!r}){more})
    for name in ("one_net", "two_net"):
        failures = (known,) if name == "one_net" else ()
        registry.register(
            ModelSpec(name=name, config="none.py", profile="toy", known_failures=failures)
        )
"""
TOY = ("--onnxdet", "-m", "toy", "--onnxdet-report=out", "test_graphs.py")
SOON = (date.today() + timedelta(days=2)).isoformat()
PAST = (date.today() - timedelta(days=2)).isoformat()


def known(toy: pytest.Pytester, expires: str = SOON, more: str = "", check: str = "parity") -> None:
    conftest = toy.path / "conftest.py"
    text = conftest.read_text()
    start = text.index("def pytest_onnxdet_models")
    end = text.index("def pytest_onnxdet_backends")
    made = KNOWN.format(check=check, expires=expires, more=more)
    conftest.write_text(text[:start] + made + "\n\n" + text[end:])


def failing(toy: pytest.Pytester) -> None:
    tests = toy.path / "test_graphs.py"
    tests.write_text(
        tests.read_text().replace("def test_parity(", "def test_parity(onnxdet_case, ")
        + "\n    assert onnxdet_case.spec.name != 'one_net'\n"
    )


def outcomes(toy: pytest.Pytester) -> dict[tuple[str, str], str]:
    return {(case["id"], case["check"]): case["outcome"] for case in cases(toy.path / "out")}


def test_a_known_failure_is_excused_and_told(toy: pytest.Pytester) -> None:
    known(toy)
    failing(toy)
    result = toy.runpytest(*TOY)
    result.assert_outcomes(passed=12, xfailed=4)
    assert result.ret == pytest.ExitCode.OK
    assert outcomes(toy)["one_net-toy-static-b1", "parity"] == "xfailed"
    reasons = {case["reason"] for case in cases(toy.path / "out") if case["outcome"] == "xfailed"}
    assert reasons == {f"boxes are off (#12, until {SOON})"}


def test_one_that_passes_fails(toy: pytest.Pytester) -> None:
    known(toy)
    result = toy.runpytest(*TOY)
    result.assert_outcomes(passed=12, failed=4)
    result.stdout.fnmatch_lines(["*XPASS(strict)*boxes are off (#12*"])


def test_backend_and_shape_narrow_it(toy: pytest.Pytester) -> None:
    known(toy, more=', backend="to*", shape="static"')
    failing(toy)
    toy.runpytest(*TOY).assert_outcomes(passed=12, xfailed=2, failed=2)


@pytest.mark.parametrize("still_failing", [True, False])
def test_one_that_has_expired_fails_whatever_the_check_says(
    toy: pytest.Pytester, still_failing: bool
) -> None:
    known(toy, expires=PAST)
    if still_failing:
        failing(toy)
    result = toy.runpytest(*TOY)
    result.assert_outcomes(passed=12, errors=4)
    result.stdout.fnmatch_lines([f"*a known failure that expired on {PAST}: boxes are off (#12)*"])


@pytest.mark.parametrize(
    ("check", "more", "said"),
    [
        ("partiy", "", "check 'partiy'; there are: export, build, parity"),
        ("parity", ', backend="tory"', "backend 'tory'; there are:"),
        ("build", ', backend="toy"', "backend 'toy'; there are: none"),
        ("parity", ', shape="dynamik"', "shape 'dynamik'; there are: static, dynamic"),
    ],
)
def test_one_that_matches_nothing_is_refused(
    toy: pytest.Pytester, check: str, more: str, said: str
) -> None:
    known(toy, check=check, more=more)
    result = toy.runpytest(*TOY)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*model 'one_net': the known failure*matches nothing: {said}*"])
