"""Which tests there are, what they are called, and how they are chosen."""

import subprocess
import sys

import pytest
from plugin_output import ids


def test_ids_name_model_backend_shape_and_batch(toy: pytest.Pytester) -> None:
    names = ids(
        toy.runpytest("--onnxdet", "--collect-only", "-q", "-m", "toy or absent", "test_graphs.py")
    )

    assert names[0] == "test_graphs.py::test_export[one_net-toy-static-b1]"
    backends, shapes = ("toy",), ("static", "dynamic")  # what is missing has no tests
    expected = {
        f"test_graphs.py::test_{check}[{model}-{backend}-{shape}-b{batch}]"
        for check in ("export", "parity")
        for model in ("one_net", "two_net")
        for backend in backends
        for shape in shapes
        for batch in (1, 2)
    }
    assert set(names) == expected
    assert len(names) == len(expected)


def test_a_models_cases_come_together_and_each_starts_with_its_export(
    toy: pytest.Pytester,
) -> None:
    names = ids(toy.runpytest("--onnxdet", "--collect-only", "-q", "test_graphs.py"))

    models = ["one_net" if "one_net" in name else "two_net" for name in names]
    assert models == sorted(models)
    assert [("export" in name, "parity" in name) for name in names[:2]] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (["-m", "toy"], 16),
        (["-m", "onnxdet and (toy or absent)"], 16),
        (["-m", "one_net and toy and static"], 4),
        (["-m", "parity and batch2 and (toy or onnxruntime)"], 8),
        (["-k", "two_net-toy-dynamic-b2"], 2),
        (["-k", "test_export and one_net and toy"], 4),
        (["--onnxdet-backend", "toy"], 16),
        (["--onnxdet-model", "one*", "--onnxdet-backend", "toy"], 8),
        (["--onnxdet-model", "one_net,two_net", "--onnxdet-backend", "toy"], 16),
        (["--onnxdet-model", "one_net", "--onnxdet-model", "two_net", "-m", "toy"], 16),
        (["--onnxdet-shape", "static", "--onnxdet-batch", "5", "-m", "toy and batch5"], 4),
    ],
)
def test_markers_names_and_options_choose(
    toy: pytest.Pytester, chosen: list[str], count: int
) -> None:
    result = toy.runpytest("--onnxdet", "--collect-only", "-q", "test_graphs.py", *chosen)

    assert len(ids(result)) == count


def test_markers_are_listed(toy: pytest.Pytester) -> None:
    text = toy.runpytest("--onnxdet", "--markers").stdout.str()

    for name in ("onnxdet", "one_net", "retinanet", "toy", "onnxruntime", "static", "dynamic"):
        assert f"@pytest.mark.{name}: " in text
    for name in ("export", "build", "parity", "accuracy", "latency", "batch1", "batch2", "full"):
        assert f"@pytest.mark.{name}: " in text


def test_a_backends_marker_is_an_identifier(toy: pytest.Pytester) -> None:
    source = (toy.path / "conftest.py").read_text()
    toy.makeconftest(source.replace('name = "toy"', 'name = "toy[other-lowering]"'))

    result = toy.runpytest(
        "--onnxdet", "--collect-only", "-q", "-m", "toy_other_lowering", "test_graphs.py"
    )

    assert len(ids(result)) == 16


def test_two_meanings_of_one_marker_are_refused(toy: pytest.Pytester) -> None:
    source = (toy.path / "conftest.py").read_text()
    toy.makeconftest(source.replace('name = "toy"', 'name = "one_net"'))

    result = toy.runpytest("--onnxdet", "test_graphs.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the marker 'one_net' would mean both*model*backend*rename*"])


def test_models_with_masks_come_first(toy: pytest.Pytester) -> None:
    conftest = toy.path / "conftest.py"
    conftest.write_text(
        conftest.read_text().replace(
            'profile="toy")', 'profile="toy", masks=name.startswith("two"))'
        )
    )

    names = ids(toy.runpytest("--onnxdet", "--collect-only", "-q", "test_graphs.py"))

    models = ["two_net" if "two_net" in name else "one_net" for name in names]
    assert models == sorted(models, reverse=True)


def test_without_the_option_nothing_of_the_suite_is_collected(toy: pytest.Pytester) -> None:
    result = toy.runpytest("--collect-only", "-q")

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["*2 deselected*"])
    assert "test_export" not in result.stdout.str()


def test_own_tests_run_as_ever_without_the_option(toy: pytest.Pytester) -> None:
    toy.makepyfile(test_own="def test_own(): pass")

    toy.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize("name", ["", "test_parity.py"])
def test_the_shipped_suite_hides_without_the_option(project: pytest.Pytester, name: str) -> None:
    from pytest_onnxdet.plugin import conformance_folder

    result = project.runpytest("--collect-only", "-q", str(conformance_folder() / name))

    assert "test_parity[" not in result.stdout.str()
    assert "::test_parity" not in result.stdout.str()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_without_files_on_the_command_line_the_shipped_suite_is_collected(
    toy: pytest.Pytester,
) -> None:
    result = toy.runpytest("--onnxdet", "--collect-only", "-q", "-m", "one_net and toy")

    names = ids(result)
    assert {name.partition("[")[0].rpartition("::")[2] for name in names} >= {
        "test_export",
        "test_parity",
        "test_accuracy",
    }
    assert not any("test_graphs" in name for name in names)


def test_testpaths_give_way_to_the_shipped_suite(toy: pytest.Pytester) -> None:
    (toy.path / "pytest.ini").write_text("[pytest]\nonnxdet_profile = toy\ntestpaths = .\n")

    names = ids(toy.runpytest("--onnxdet", "--collect-only", "-q"))

    assert names
    assert not any("test_graphs" in name for name in names)


def test_files_on_the_command_line_are_all_that_is_collected(toy: pytest.Pytester) -> None:
    names = ids(toy.runpytest("--onnxdet", "--collect-only", "-q", "test_graphs.py"))

    assert all("test_graphs" in name for name in names)


HEAVY = ("torch", "mmcv", "mmdet", "onnx", "onnxruntime", "numpy", "cv2", "pycocotools")


def test_a_run_without_the_option_loads_nothing_heavy(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_probe=f"""
        import sys

        def test_probe():
            assert "pytest_onnxdet.plugin" in sys.modules
            assert not [name for name in {HEAVY!r} if name in sys.modules]
        """
    )

    project.runpytest_subprocess("-p", "no:benchmark").assert_outcomes(passed=1)


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, pytest_onnxdet.plugin, pytest_onnxdet.hookspecs\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("chosen", "count"), [("full", 4), ("full and parity", 2), ("not full", 0)]
)
@pytest.mark.parametrize("checkpoints", ["none", "there"])
def test_full_size_cases_carry_a_marker(
    toy: pytest.Pytester, chosen: str, count: int, checkpoints: str
) -> None:
    for name in ("there", "data/annotations", "data/val2017"):
        (toy.path / name).mkdir(parents=True)
    (toy.path / "there/retinanet.pth").touch()
    (toy.path / "data/annotations/instances_val2017.json").touch()

    result = toy.runpytest(
        "--onnxdet",
        "--collect-only",
        "-q",
        "--onnxdet-profile=full",
        f"--onnxdet-checkpoints={checkpoints}",
        "--onnxdet-data=data",
        "--onnxdet-model=retinanet",
        "--onnxdet-backend=toy",
        "--onnxdet-shape=dynamic",
        "-m",
        chosen,
        "test_graphs.py",
    )

    assert len([line for line in result.outlines if "::" in line]) == count


@pytest.mark.parametrize(("chosen", "count"), [("full", 0), ("toy and not full", 16)])
def test_other_cases_do_not_carry_it(toy: pytest.Pytester, chosen: str, count: int) -> None:
    result = toy.runpytest("--onnxdet", "--collect-only", "-q", "-m", chosen, "test_graphs.py")

    assert len([line for line in result.outlines if "::" in line]) == count
