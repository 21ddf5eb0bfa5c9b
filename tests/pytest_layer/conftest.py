import contextlib
from importlib import metadata
from pathlib import Path

import pytest
import toy_project

# Imported here so that pytester, which forgets what an inner run imported, does not import
# compiled modules a second time.
import pytest_onnxdet.backends
import pytest_onnxdet.data.datasets
import pytest_onnxdet.models.registry
import pytest_onnxdet.report
import pytest_onnxdet.run.bench
import pytest_onnxdet.run.recordings
import pytest_onnxdet.verify.checks

# What torch's exporter imports puts its own finder of distributions in the place of Python's; an
# inner run that was the first to import it would leave neither.
with contextlib.suppress(ImportError):
    import importlib_metadata  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty project in which the plugin is installed.

    Runs in this process know ONNX Runtime alone of the built-in backends: the plugin treats all
    alike, and looking for TensorRT takes longer than such a run.
    """
    ort = pytest_onnxdet.backends.OnnxRuntimeBackend()
    monkeypatch.setattr(pytest_onnxdet.backends, "builtin_backends", lambda: {ort.name: ort})
    # The inner run is nobody's worker, though this test may be run by one.
    for name in ("XDG_CACHE_HOME", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    if not any(point.value == "pytest_onnxdet.plugin" for point in _entry_points()):
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("PYTEST_PLUGINS", "pytest_onnxdet.plugin")
    return pytester


def _entry_points() -> metadata.EntryPoints:
    return metadata.entry_points(group="pytest11")


@pytest.fixture
def toy(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The toy project; see toy_project.py."""
    project.makeini(toy_project.INI)
    project.makeconftest(toy_project.CONFTEST)
    project.makepyfile(test_graphs=toy_project.TESTS)
    monkeypatch.setenv("TOY_LOG", str(project.path / "exports.log"))
    return project
