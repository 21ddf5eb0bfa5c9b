import subprocess
import sys

FIRST = "import sys; from pytest_onnxdet.models.torchvision_stub import ensure_torchvision\n"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FIRST + code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_where_it_is_missing_a_stand_in_is_there_and_importable() -> None:
    code = """
import importlib.metadata as m
def version(name): raise m.PackageNotFoundError(name)
m.version = version
print(ensure_torchvision(), ensure_torchvision())
import torchvision, torchvision.models
print(torchvision.__version__)
"""
    assert run(code) == "False False\n0.0.0"


def test_one_that_does_not_load_is_replaced() -> None:
    code = """
import importlib, importlib.metadata as m
m.version = lambda name: "0.99"
def broken(name): raise RuntimeError("operator torchvision::nms does not exist")
importlib.import_module = broken
print(ensure_torchvision(), sys.modules["torchvision"].__version__)
"""
    assert run(code) == "False 0.0.0"


def test_a_real_one_is_left_alone() -> None:
    code = """
import types
real = types.ModuleType("torchvision"); sys.modules["torchvision"] = real
print(ensure_torchvision(), sys.modules["torchvision"] is real)
"""
    assert run(code) == "True True"


def test_specs_and_registry_import_nothing_heavy() -> None:
    code = """
from pytest_onnxdet.models.registry import builtin_registry
builtin_registry()
print([n for n in ("torch", "mmcv", "mmdet", "cv2", "numpy", "safetensors") if n in sys.modules])
"""
    assert run(code) == "[]"
