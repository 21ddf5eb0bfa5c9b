"""The package's rooms: what lies where, and who may import whom."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from class_names import class_name_uses
from import_graph import TYPES, Package

import pytest_onnxdet

#: Each may import those before it, and itself.
ROOMS = [
    "core",
    "models",
    "data",
    "families",
    "graph",
    "export",
    "reference",
    "bundle",
    "backends",
    "verify",
    "measure",
    "run",
    "report",
    "pytest_layer",
    "commands",
    "testing",
]
ENTRY_POINTS = {"__init__", "plugin", "hookspecs", "cli"}
LIGHT = ("core", "graph", "bundle", "backends", "verify", "measure")
#: Of other rooms: what goes with a bundle.
LIGHT_MODULES = ("reference.recording",)
HEAVY = ("torch", "torchvision", "mmcv", "mmdet")
#: What of those a light room asks for all the same, where it is there.
OPTIONAL = {
    ("backends.tensorrt.device", "torch"): "one of two ways to a GPU's memory; pycuda is the other",
}
#: Modules that import by a name that they compute.
COMPUTED = {
    "__init__": "the public names, each when it is asked for",
    "cli": "the command that was asked for",
    "models.custom_imports": "a config's custom_imports",
    "families.classes": "the classes of mmdet that families name",
    "families.registry": "the families of BUILTIN",
    "backends.tensorrt.library": "the library under the names that it is shipped by",
}
#: Modules outside of families that use names of classes or functions, and how often.
NAMING = {
    "core.sources": (2, "hashes tell classes by their names, from run to run"),
    "models.unbuildable": (1, "a config may name a class by the class itself"),
    "reference.ties.replace": (1, "modules hold a function of mmdet's by its own name"),
    "commands.evaluate": (1, "a data set that the config builds is called what its class is"),
}
MAX_LINES = 350
MAX_PYTEST = 3


PACKAGE = Package(
    Path(pytest_onnxdet.__file__).parent,
    without=("conformance",),  # where it is installed; it is the suite, and no room
)
MODULES = PACKAGE.modules


def room(module: str) -> str:
    return module.split(".")[0]


def test_the_graph_is_read() -> None:
    """A reader that sees nothing would let everything pass."""
    edges = {(module, of) for module in MODULES for of, _, _ in PACKAGE.imports(module)}
    assert len(edges) > 300
    assert ("models.mini", "models.mini.overrides") in edges
    assert ("run.parity", "verify.localize") in edges  # in a function
    assert ("export.identity", "models.spec") in edges  # for types only


def test_nothing_lies_loose_at_the_top() -> None:
    assert {module for module in MODULES if "." not in module} <= {*ROOMS, *ENTRY_POINTS}
    assert {room(module) for module in MODULES} == {*ROOMS, *ENTRY_POINTS}


def test_every_folder_is_a_package() -> None:
    assert PACKAGE.folders_without_init() == []


def test_the_page_of_the_rooms_is_complete() -> None:
    """docs/architecture.md lists the rooms, in the order of their imports."""
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    table = page[page.index("| room | holds |") :].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == ROOMS


def test_rooms_import_earlier_rooms_only() -> None:
    wrong = [
        f"{module}:{one.line} imports {of}"
        for module in MODULES
        if module not in ENTRY_POINTS
        for of, _, one in PACKAGE.imports(module)
        if not of or room(of) in ENTRY_POINTS or ROOMS.index(room(of)) > ROOMS.index(room(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_import_each_other() -> None:
    """Also not for types, nor over others."""
    edges = {m: {of for of, _, _ in PACKAGE.imports(m) if of and of != m} for m in MODULES}
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for other in sorted(edges[module]):
                walk(other, (*trail, module))
            done.add(module)

    for module in edges:
        walk(module, ())


def test_rooms_keep_their_private_names() -> None:
    wrong = []
    for module, source in MODULES.items():
        for full, line in source.private_uses:
            name = PACKAGE.inner(full)
            if name is not None and room(name) != room(module):
                wrong.append(f"{module}:{line} uses {name}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_long() -> None:
    lengths = {m: len(s.path.read_text().splitlines()) for m, s in MODULES.items()}
    assert not {m: n for m, n in lengths.items() if n > MAX_LINES}


def test_few_modules_import_pytest() -> None:
    users = {
        module
        for module, source in MODULES.items()
        if room(module) != "pytest_layer" and module not in ENTRY_POINTS
        if any(one.top in ("pytest", "_pytest") for one in source.imports)
    }
    assert len(users) <= MAX_PYTEST, users


def test_computed_imports_have_a_reason() -> None:
    """Of what is imported by a name that is made up nobody can read where it lies."""
    computed = {m for m, source in MODULES.items() if any(not i.module for i in source.imports)}
    assert computed == {*COMPUTED}


def test_only_families_know_classes_by_name() -> None:
    uses = {m: class_name_uses(s.tree) for m, s in MODULES.items() if room(m) != "families"}
    counts = {module: len(lines) for module, lines in uses.items() if lines}
    assert counts == {module: count for module, (count, _) in NAMING.items()}, uses


def light_modules() -> list[str]:
    return [m for m in MODULES if room(m) in LIGHT or m in LIGHT_MODULES]


def test_the_device_side_imports_neither_torch_nor_mmdet_anywhere() -> None:
    """Neither in functions nor for types, and nothing of this package that needs them to load."""
    needing = PACKAGE.loads(HEAVY)
    assert "models.build" in needing and "reference.detector" in needing
    wrong = []
    for module in light_modules():
        for one in MODULES[module].imports:
            if one.top in HEAVY and (module, one.top) not in OPTIONAL:
                wrong.append(f"{module}:{one.line} imports {one.module}")
        for of, _, one in PACKAGE.imports(module):
            if of in needing and one.when != TYPES:
                wrong.append(f"{module}:{one.line} imports {of}, which needs {' or '.join(HEAVY)}")
    assert not wrong, "\n".join(wrong)
    imports = {(m, one.top) for m in light_modules() for one in MODULES[m].imports}
    assert imports.issuperset(OPTIONAL)


def test_what_the_device_side_calls_imports_neither_of_them() -> None:
    """Also over modules of other rooms, in functions, too: Detections pasted masks with mmdet."""
    reached = {module: (module,) for module in light_modules()}
    waiting = list(reached)
    while waiting:
        module = waiting.pop()
        for of, _, one in PACKAGE.imports(module):
            if one.when != TYPES and of in MODULES and of not in reached:
                reached[of] = (*reached[module], of)
                waiting.append(of)
    assert "data.detections" in reached and "run.bench" not in reached
    wrong = [
        f"{' -> '.join(way)}:{one.line} imports {one.module}"
        for module, way in reached.items()
        for one in MODULES[module].imports
        if one.top in HEAVY and one.when != TYPES and (module, one.top) not in OPTIONAL
    ]
    assert not wrong, "\n".join(wrong)


BARE = '''
import importlib, sys, tempfile
from pathlib import Path

class Blocker:
    """Nothing that needs PyTorch is installed."""
    NAMES = {names!r}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.NAMES:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Blocker())
for name in {modules!r}:
    importlib.import_module("pytest_onnxdet." + name)
for name in Blocker.NAMES:
    assert name not in sys.modules, name

import numpy as np
from pytest_onnxdet import Detections, Recording, assert_detections_close
from pytest_onnxdet.bundle.format import read, write

boxes = np.array([[0, 0, 10, 10]], dtype=np.float32)
one = Detections(boxes, np.array([0.9], dtype=np.float32), np.array([0]))
assert_detections_close(one, one)
try:
    assert_detections_close(one, Detections(boxes + 1, one.scores, one.labels))
except AssertionError as error:
    assert "box_shift" in str(error), error
else:
    raise SystemExit("a moved box passed")
recording = Recording("ab", 1, ("a.png",), ((9, 9),), (one,), ({{"cls": boxes}},), {{"torch": "2"}})
with tempfile.TemporaryDirectory() as folder:
    write(Path(folder) / "bundle.npz", recording)
    again = read(Path(folder) / "bundle.npz")
assert_detections_close(again.detections[0], one)

from types import SimpleNamespace
from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.judge import Sides, judge

probs = np.linspace(0, 1, 49, dtype=np.float32).reshape(1, 1, 7, 7)
outputs = dict(
    dets=np.array([[[4, 4, 20, 20, 0.9]]], np.float32), labels=np.zeros((1, 1), int), masks=probs
)
meta = dict(ori_shape=(32, 32, 3), scale_factor=np.ones(4, np.float32))
(mask,) = from_outputs(outputs, SimpleNamespace(valid=1, metas=[meta]))
less = mask.masks.copy()
less[0][np.nonzero(less[0])[0][-1], np.nonzero(less[0])[1][-1]] = False
from dataclasses import replace
assert judge(Sides([mask], [mask]), Tolerance()).ok
assert not judge(Sides([mask], [replace(mask, masks=less)]), Tolerance()).ok
print("compared")
'''


def test_the_device_side_needs_neither_torch_nor_mmdet() -> None:
    """Every module of those rooms is imported, and detections compared, where they are missing."""
    light = light_modules()
    assert len(light) > 25
    names = [*HEAVY, "terminaltables", "addict", "yapf"]
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(names=names, modules=light)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "compared"
