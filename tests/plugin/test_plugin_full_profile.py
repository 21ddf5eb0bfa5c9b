"""Where the documented detectors' weights come from, and what is said when they do not come."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_onnxdet.models.build import BuildError
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.outcome import SUITE


@pytest.fixture
def nothing_there() -> Iterator[str]:
    """The address of a server without files."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_checkpoint_that_cannot_be_had(nothing_there: str, tmp_path: Path) -> None:
    from pytest_onnxdet.cases import Settings
    from pytest_onnxdet.data.datasets import builtin_datasets
    from pytest_onnxdet.models.registry import builtin_registry
    from pytest_onnxdet.workbench import Workbench

    mini = builtin_registry().get("retinanet")
    url = f"{nothing_there}/retinanet-c2398f9e.pth"
    spec = ModelSpec("retinanet", mini.config, "full", mini.overrides, weights=url)
    with (
        Workbench(Settings(tmp_path), builtin_datasets(), threads=1) as bench,
        pytest.raises(BuildError) as caught,
    ):
        bench.detector(spec)
    assert url in str(caught.value) and "404" in str(caught.value)
    assert "--onnxdet-checkpoints DIR" in str(caught.value)
    assert str(tmp_path / "checkpoints" / "retinanet-c2398f9e.pth") in str(caught.value)


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

    from pytest_onnxdet.cases import Settings
    from pytest_onnxdet.data.datasets import builtin_datasets
    from pytest_onnxdet.models.registry import builtin_registry
    from pytest_onnxdet.models.structure import structure_spec
    from pytest_onnxdet.workbench import Workbench

    spec = structure_spec(replace(builtin_registry().get("fsaf"), expected_ap={}))
    with Workbench(Settings(tmp_path, limit=2), builtin_datasets(), threads=1) as bench:
        detector = bench.detector(spec)
        batch = next(iter(bench_batches(bench, spec)))
        assert len(bench.reference(spec).run(batch)[0]) > 0
        assert bench.detector(spec) is detector


def bench_batches(bench, spec):
    from pytest_onnxdet.data.batches import Batches

    return Batches(bench.dataset(spec), 1)
