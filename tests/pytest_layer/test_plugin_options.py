"""Options and ini keys become settings; what cannot be used is refused with what can."""

from pathlib import Path

import pytest

from pytest_onnxdet.pytest_layer.stash import SUITE
from pytest_onnxdet.run.cases import Settings


def settings(project: pytest.Pytester, *arguments: str) -> Settings:
    """The settings of a run that would be started with these arguments."""
    return project.parseconfigure("--onnxdet", *arguments).stash[SUITE].settings


def test_defaults(project: pytest.Pytester) -> None:
    assert settings(project) == Settings(
        cache=Path.home() / ".cache/pytest-onnxdet",
        models=(),
        profile="mini",
        backends=(),
        shapes=("static", "dynamic"),
        batches=(1, 2, 3),
        precisions=("fp32",),
    )


def test_options(toy: pytest.Pytester) -> None:
    for name in ("checkpoints", "data/annotations", "data/val2017"):
        (toy.path / name).mkdir(parents=True)
    (toy.path / "checkpoints/one_net.pth").touch()
    (toy.path / "data/annotations/instances_val2017.json").touch()

    chosen = settings(
        toy,
        "--onnxdet-model=one_*",
        "--onnxdet-backend=toy, onnxruntime",
        "--onnxdet-shape=dynamic",
        "--onnxdet-batch=4,1,4",
        "--onnxdet-checkpoints=checkpoints",
        "--onnxdet-data=data",
        "--onnxdet-cache=elsewhere",
        "--onnxdet-report=out/report",
        "--onnxdet-limit=8",
    )

    assert chosen == Settings(
        cache=toy.path / "elsewhere",
        models=("one_*",),
        profile="toy",
        backends=("toy", "onnxruntime"),
        shapes=("dynamic",),
        batches=(4, 1),
        checkpoints=toy.path / "checkpoints",
        data=toy.path / "data",
        report=toy.path / "out/report",
        limit=8,
    )


def test_ini_twins(toy: pytest.Pytester) -> None:
    sub = toy.mkdir("sub")
    toy.makeini(
        """
        [pytest]
        onnxdet = true
        onnxdet_profile = toy
        onnxdet_model = one_*, two_net
        onnxdet_backend = toy
        onnxdet_shape = static
        onnxdet_batch = 1 2 3
        onnxdet_cache = sub/cache
        onnxdet_limit = 5
        """
    )

    chosen = toy.parseconfigure().stash[SUITE].settings

    assert chosen.models == ("one_*", "two_net")
    assert chosen.backends == ("toy",)
    assert chosen.shapes == ("static",)
    assert chosen.batches == (1, 2, 3)
    assert chosen.cache == sub / "cache"
    assert chosen.limit == 5


def test_the_command_line_wins_over_the_ini_file(toy: pytest.Pytester) -> None:
    toy.makeini("[pytest]\nonnxdet_profile = toy\nonnxdet_batch = 7\nonnxdet_shape = static\n")

    chosen = settings(toy, "--onnxdet-batch=2")

    assert chosen.batches == (2,)
    assert chosen.shapes == ("static",)


def test_the_cache_follows_xdg(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.path / "xdg"))

    assert settings(project).cache == project.path / "xdg/pytest-onnxdet"


def test_checkpoints_replace_every_weights_file(toy: pytest.Pytester) -> None:
    folder = toy.mkdir("checkpoints")
    (folder / "one_net.pth").touch()
    (folder / "two_net.safetensors").touch()

    suite = toy.parseconfigure("--onnxdet", "--onnxdet-checkpoints=checkpoints").stash[SUITE]

    assert {case.spec.weights for case in suite.cases} == {
        str(folder / "one_net.pth"),
        str(folder / "two_net.safetensors"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--onnxdet-model=nope"], "*no model 'nope' of profile 'toy'*one_net, two_net*"),
        (["--onnxdet-model=one_net,nope"], "*no model 'nope'*"),
        (["--onnxdet-profile=nope"], "*no models of profile 'nope'; profiles: mini, full, toy*"),
        (["--onnxdet-profile=mini,full"], "*--onnxdet-profile: 'mini,full': give one value*"),
        (["--onnxdet-backend=nope"], "*no backend 'nope'; there are: onnxruntime, *toy, absent*"),
        (["--onnxdet-backend=absent"], "*backend 'absent': absentrt is not installed: pip inst*"),
        (["--onnxdet-shape=square"], "*--onnxdet-shape: 'square'*static, dynamic*"),
        (["--onnxdet-shape="], "*--onnxdet-shape: an empty value: leave the option out*"),
        (["--onnxdet-batch=0"], "*--onnxdet-batch: '0': give whole numbers from 1*"),
        (
            ["--onnxdet-batch=" + "9" * 5000],
            "*--onnxdet-batch: '999*9': give whole numbers from 1*",
        ),
        (["--onnxdet-batch=1,two"], "*--onnxdet-batch: 'two': give whole numbers from 1*"),
        (["--onnxdet-limit=none"], "*--onnxdet-limit: 'none'*"),
        (["--onnxdet-limit=1,2"], "*--onnxdet-limit: '1,2': give one whole number*"),
        (["--onnxdet-precision=fp8"], "*no precision 'fp8'*there are: fp32*"),
        (["--onnxdet-checkpoints=nope"], "*--onnxdet-checkpoints: *nope: there is no such folder*"),
        (["--onnxdet-data=nope"], "*--onnxdet-data: *nope: there is no such folder*"),
        (["--onnxdet-data=."], "*--onnxdet-data: there is no *instances_val2017.json*"),
        (["--onnxdet-report=tox.ini"], "*--onnxdet-report: *tox.ini: this is a file*"),
        (["--onnxdet-cache=tox.ini/c"], "*--onnxdet-cache: *tox.ini/c cannot be written to*"),
        (["--onnxdet-profile=full"], "*no data set 'coco_val2017'*--onnxdet-data DIR*"),
        (["--onnxdet-checkpoints=."], "*no weights of 'one_net'; looked for one_net.safetensors*"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error(
    toy: pytest.Pytester, arguments: list[str], message: str
) -> None:
    result = toy.runpytest("--collect-only", "--onnxdet", *arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_a_bad_ini_value_names_the_file(toy: pytest.Pytester) -> None:
    toy.makeini("[pytest]\nonnxdet_batch = many\n")

    result = toy.runpytest("--collect-only", "--onnxdet")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: onnxdet_batch in *tox.ini: 'many': give whole numbers*"])


def test_a_folder_that_pytest_takes_for_the_tests_is_refused(
    toy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = toy.mkdir("project"), toy.mkdir("elsewhere")
    for name in ("tox.ini", "conftest.py", "test_graphs.py"):
        (toy.path / name).rename(project / name)
    monkeypatch.chdir(project)

    spaced = toy.runpytest("--collect-only", "--onnxdet", "--onnxdet-cache", str(elsewhere))
    joined = toy.runpytest("--collect-only", "--onnxdet", f"--onnxdet-cache={elsewhere}")

    assert spaced.ret == pytest.ExitCode.USAGE_ERROR
    spaced.stderr.fnmatch_lines([f"ERROR: *read no ini file*write --onnxdet-cache={elsewhere}"])
    assert joined.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_a_folder_that_is_yet_to_be_made_is_refused_once(
    toy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    """Made by this run, it would be what the workers of -n take for the place of the tests."""
    project, missing = toy.mkdir("project"), toy.path / "elsewhere"
    for name in ("tox.ini", "conftest.py", "test_graphs.py"):
        (toy.path / name).rename(project / name)
    monkeypatch.chdir(project)

    result = toy.runpytest_subprocess(*workers, "--onnxdet", "--onnxdet-cache", str(missing))
    inside = toy.runpytest("--collect-only", "--onnxdet", "--onnxdet-cache", "cache")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().count("ERROR") == 1
    result.stderr.fnmatch_lines([f"ERROR: *once this folder is made*--onnxdet-cache={missing}"])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()
    assert not missing.exists()
    assert inside.ret == pytest.ExitCode.OK


def test_a_name_registered_twice_is_a_usage_error(toy: pytest.Pytester) -> None:
    source = (toy.path / "conftest.py").read_text()
    toy.makeconftest(source.replace('"two_net"', '"one_net"'))

    result = toy.runpytest("--collect-only", "--onnxdet")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: onnxdet: model 'one_net' * is registered already*"])


def test_help_explains_every_option_as_it_is(toy: pytest.Pytester) -> None:
    from pytest_onnxdet.core.vocabulary import CHECKS, DEFAULT_BATCHES, SHAPES
    from pytest_onnxdet.models.structure import LIMIT
    from pytest_onnxdet.pytest_layer.option_list import OPTIONS

    text = " ".join(toy.runpytest("--help").stdout.str().split())

    for option in OPTIONS:
        assert f"--onnxdet-{option.name.replace('_', '-')}={option.metavar} " in text
        assert f"onnxdet_{option.name} (" in text, "the ini twin"
    assert f"check ({', '.join(CHECKS)})" in text
    assert f"Default: {','.join(SHAPES)}." in text
    assert f"Default: {','.join(map(str, DEFAULT_BATCHES))}." in text
    assert "--onnxdet-checkpoints=none makes it the structure check" in text
    assert f"on {LIMIT} images" in text
    assert f"Default: all; {LIMIT} with --onnxdet-checkpoints=none." in text


def test_help_names_the_backends_as_they_are() -> None:
    from pytest_onnxdet.backends import OnnxRuntimeBackend, TensorRTBackend
    from pytest_onnxdet.backends import TensorRTLoweringBackend as Lowering
    from pytest_onnxdet.pytest_layer.option_list import OPTIONS

    (text,) = (option.help for option in OPTIONS if option.name == "backend")
    assert OnnxRuntimeBackend.default and TensorRTBackend.default and not Lowering.default
    assert f"Default: {OnnxRuntimeBackend.name}, {TensorRTBackend.name} and what" in text
    assert f"Only by name: '{Lowering.name}'" in text


def test_nothing_is_read_without_the_option(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nonnxdet_batch = many\n")
    project.makepyfile("def test_own(): pass")

    project.runpytest().assert_outcomes(passed=1)
