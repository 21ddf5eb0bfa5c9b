"""Where the documented detectors' weights come from, and what is said when they do not come."""

import hashlib
import http.server
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from plugin_output import cases

from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.models.build import BuildError
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.pytest_layer.outcome import stage_and_message
from pytest_onnxdet.pytest_layer.stash import SUITE
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Settings

ROOT = Path(__file__).parents[2]


class Server(NamedTuple):
    """A loopback server of the files in a folder.

    Attributes:
        address: its URL.
        folder: what it serves.
        asked: the paths of the requests.
    """

    address: str
    folder: Path
    asked: list[str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    made = partial(Handler, directory=str(folder))
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), made)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield Server(f"http://127.0.0.1:{running.server_port}", folder, asked)
    running.shutdown()
    running.server_close()


def full(weights: str) -> ModelSpec:
    """The mini RetinaNet as a full-size model."""
    mini = builtin_registry().get("retinanet")
    return ModelSpec("one_net", mini.config, "full", mini.overrides, weights, classes=mini.classes)


def publish(folder: Path) -> str:
    """The mini RetinaNet's weights as OpenMMLab publishes them; returns the file's name."""
    from safetensors.torch import load_file

    state = load_file(str(builtin_registry().get("retinanet").weights))
    # What mmdet 2.x leaves in a checkpoint: a pickle with numpy scalars among its notes.
    meta = {"epoch": 12, "CLASSES": ("circle", "square", "triangle"), "mAP": np.float64(0.6)}
    unnamed = folder / "unnamed.pth"
    torch.save({"meta": meta, "state_dict": OrderedDict(state)}, unnamed)
    digest = hashlib.sha256(unnamed.read_bytes()).hexdigest()
    name = f"retinanet_r50_fpn_1x_coco_20200130-{digest[:8]}.pth"
    unnamed.rename(folder / name)
    return name


def test_a_documented_checkpoint_becomes_a_detector(server: Server, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    name = publish(server.folder)
    spec = full(f"{server.address}/{name}")
    wanted = load_file(str(builtin_registry().get("retinanet").weights))
    settings = Settings(tmp_path, limit=2)
    for _ in range(2):  # the second time it is there already
        with Workbench(settings, builtin_datasets(), threads=1) as bench:
            detector = bench.detector(spec)
            results = bench.reference(spec).run(next(iter(bench_batches(bench, spec))))
        state = detector.state_dict()
        assert all(torch.equal(state[key], value) for key, value in wanted.items())
        assert len(results[0]) > 0
    assert server.asked == [f"/{name}"]
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pth")] == [name]
    assert not list((tmp_path / "checkpoints").glob("*.part"))


def test_a_checkpoint_that_is_not_what_its_name_says(server: Server, tmp_path: Path) -> None:
    name = publish(server.folder)
    other = f"{name[:-12]}00000000.pth"
    (server.folder / name).rename(server.folder / other)
    with (
        Workbench(Settings(tmp_path), builtin_datasets(), threads=1) as bench,
        pytest.raises(BuildError, match="00000000"),
    ):
        bench.detector(full(f"{server.address}/{other}"))
    assert not list((tmp_path / "checkpoints").glob("*.pth"))


def test_a_checkpoint_that_cannot_be_had(server: Server, tmp_path: Path) -> None:
    url = f"{server.address}/retinanet-c2398f9e.pth"
    with Workbench(Settings(tmp_path), builtin_datasets(), threads=1) as bench:
        spec = full(url)
        for _ in range(3):  # each test of a model asks for its detector
            with pytest.raises(BuildError) as caught:
                bench.detector(spec)
    assert len(server.asked) == 1
    assert url in str(caught.value) and "404" in str(caught.value)
    assert "--onnxdet-checkpoints DIR" in str(caught.value)
    assert str(tmp_path / "checkpoints" / "retinanet-c2398f9e.pth") in str(caught.value)


CONFTEST = """
from dataclasses import replace

from pytest_onnxdet.models.mini import mini_specs


def pytest_onnxdet_models(registry):
    mini = next(spec for spec in mini_specs() if spec.name == "retinanet")
    full = replace(mini, name="one_net", profile="full", expected_ap={{}}, weights={url!r})
    registry.register(full)
"""


def test_a_run_says_once_for_each_test_what_cannot_be_had(
    project: pytest.Pytester, server: Server
) -> None:
    url = f"{server.address}/one_net-c2398f9e.pth"
    project.makeconftest(CONFTEST.format(url=url))
    result = project.runpytest_subprocess(
        *("--onnxdet", "--onnxdet-profile=full", "--onnxdet-model=one_net", "--onnxdet-limit=2"),
        *("--onnxdet-backend=onnxruntime", "--onnxdet-cache=cache", "--onnxdet-report=out"),
        *("-m", "dynamic and (export or accuracy)"),
    )

    result.assert_outcomes(errors=6)
    assert len(server.asked) == 1  # nor is it asked for again and again
    results = cases(project.path / "out")
    assert {case["outcome"] for case in results} == {"failed"} and len(results) == 6
    for case in results:
        assert url in case["reason"] and "404" in case["reason"]
        assert "--onnxdet-checkpoints DIR" in case["reason"]
    result.stdout.fnmatch_lines([f"*{url}*404*"])
    result.stdout.no_fnmatch_line("*def download*")  # the message is the whole story
    result.stdout.no_fnmatch_line("*Traceback*")


def test_what_is_raised_on_purpose_says_its_stage() -> None:
    from pytest_onnxdet.backends.base import BackendError, EngineError
    from pytest_onnxdet.core.store import StoreError
    from pytest_onnxdet.data.batches import DataError
    from pytest_onnxdet.models.checkpoint import BuildError
    from pytest_onnxdet.verify.checks import CheckFailed

    class Own(BackendError):
        """A downstream backend's, which has the name of none of these."""

    for kind, stage in (
        (BuildError, "build"),
        (DataError, "data"),
        (StoreError, "cache"),
        (BackendError, "runtime"),
        (Own, "runtime"),
        (EngineError, "build"),
    ):
        assert stage_and_message(kind("why")) == (stage, "why")
    assert stage_and_message(CheckFailed("why", {}, "parity")) == ("parity", "why")
    for surprise in (ValueError("why"), type("BuildError", (Exception,), {})("why")):
        assert stage_and_message(surprise) is None


def test_a_part_without_a_lowering_is_no_fault_of_the_export() -> None:
    """Wherever it is raised; weights that nobody calibrates are not even built."""
    from pytest_onnxdet.export.options import ExportError, NoLoweringError
    from pytest_onnxdet.families.classes import NotCalibratedError, UnsupportedPart

    stages = {kind: stage_and_message(kind("why")) for kind in (UnsupportedPart, NoLoweringError)}
    assert set(stages.values()) == {("lowering", "why")}
    assert stage_and_message(ExportError("why")) == ("export", "why")
    assert stage_and_message(NotCalibratedError("why")) == ("build", "why")


def test_no_checkpoints_by_option(project: pytest.Pytester) -> None:
    from pytest_onnxdet.models.structure import LIMIT

    config = project.parseconfigure(
        "--onnxdet", "--onnxdet-profile=full", "--onnxdet-checkpoints=none"
    )
    suite = config.stash[SUITE]
    assert suite.settings.random_weights and suite.settings.checkpoints is None
    assert suite.settings.limit == LIMIT
    assert {case.spec.profile for case in suite.cases} == {"structure"}


def test_a_structure_check_detects_something(tmp_path: Path) -> None:
    from dataclasses import replace

    from pytest_onnxdet.models.structure import structure_spec

    spec = structure_spec(replace(builtin_registry().get("fsaf"), expected_ap={}))
    with Workbench(Settings(tmp_path, limit=2), builtin_datasets(), threads=1) as bench:
        detector = bench.detector(spec)
        batch = next(iter(bench_batches(bench, spec)))
        assert len(bench.reference(spec).run(batch)[0]) > 0
        assert bench.detector(spec) is detector


def bench_batches(bench, spec):
    from pytest_onnxdet.data.batches import Batches

    return Batches(bench.dataset(spec), 1)


def test_the_benchmark_of_a_full_run_works(tmp_path: Path) -> None:
    """``--onnxdet-profile full --onnxdet-data DIR`` on drawn data laid out as COCO val2017."""
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "benchmarks/bench_memory.py", "--path", "suite"),
            *("--model", "retinanet", "--images", "20", "--folder", tmp_path),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = re.search(
        r"suite retinanet, 20 images: peak RSS (\d+) MB, ([\d.]+) s, evaluation ([\d.]+) s "
        r"\(([\d.]+) % of the run\); bbox_mAP_torch: ([\d.]+), bbox_mAP: ([\d.]+)",
        done.stdout,
    )
    assert figures, done.stdout
    peak, seconds, evaluation, _, eager, ours = map(float, figures.groups())
    assert 100 < peak < 4000 and evaluation < seconds
    assert eager > 0.5 and abs(ours - eager) <= 0.0005
    layout = tmp_path / "coco-20"
    assert (layout / "annotations/instances_val2017.json").is_file()
    assert len(list((layout / "val2017").iterdir())) == 20
