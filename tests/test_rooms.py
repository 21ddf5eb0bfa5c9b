"""The package's rooms: what lies where, and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_onnxdet

PACKAGE = Path(pytest_onnxdet.__file__).parent
NAME = "pytest_onnxdet"
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
MAX_LINES = 350
MAX_PYTEST = 3


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package with its dotted name below it; a folder's is the folder's."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "conformance":  # where it is installed; it is the suite, and no room
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__", path


MODULES = dict(modules())


def room(module: str) -> str:
    return module.split(".")[0]


def imports(module: str) -> Iterator[tuple[str, str, int]]:
    """What a module imports of the package, wherever in it: module, name ('' for all), line."""
    path = MODULES[module]
    is_folder = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == NAME:
                    yield alias.name.removeprefix(NAME).lstrip("."), "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                keep = len(here) - node.level + is_folder
                base = ".".join([NAME, *here[:keep], *filter(None, [base])])
            if base.split(".")[0] != NAME:
                continue
            base = base.removeprefix(NAME).lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                if inner in MODULES:
                    yield inner, "", node.lineno
                else:
                    yield base, alias.name, node.lineno


def test_the_graph_is_read() -> None:
    """A reader that sees nothing would let everything pass."""
    edges = {(module, of) for module in MODULES for of, _, _ in imports(module)}
    assert len(edges) > 300
    assert ("models.mini", "models.mini.overrides") in edges
    assert ("run.parity", "verify.localize") in edges  # in a function
    assert ("export.identity", "models.spec") in edges  # for types only


def test_nothing_lies_loose_at_the_top() -> None:
    assert {module for module in MODULES if "." not in module} <= {*ROOMS, *ENTRY_POINTS}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= {*ROOMS, "conformance"}


def test_the_page_of_the_rooms_is_complete() -> None:
    """docs/architecture.md lists the rooms, in the order of their imports."""
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    table = page[page.index("| room | holds |") :].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == ROOMS
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"conformance"} == {
        *ROOMS
    }


def test_rooms_import_earlier_rooms_only() -> None:
    wrong = [
        f"{module}:{line} imports {of}"
        for module in MODULES
        if module not in ENTRY_POINTS
        for of, _, line in imports(module)
        if not of or room(of) in ENTRY_POINTS or ROOMS.index(room(of)) > ROOMS.index(room(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_import_each_other() -> None:
    """Also not for types, nor over others."""
    edges = {m: {of for of, _, _ in imports(m) if of and of != m} for m in MODULES}
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
    for module in MODULES:
        aliases: dict[str, str] = {}
        for node in ast.walk(ast.parse(MODULES[module].read_text())):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}".removeprefix(f"{NAME}.")
                    if inner in MODULES:
                        aliases[alias.asname or alias.name] = inner
        for of, name, line in imports(module):
            private = [part for part in (*of.split("."), name) if re.match("_(?!_)", part)]
            if private and room(of) != room(module):
                wrong.append(f"{module}:{line} imports {of}.{name}")
        for node in ast.walk(ast.parse(MODULES[module].read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and re.match("_(?!_)", node.attr)
                and room(aliases.get(node.value.id, module)) != room(module)
            ):
                wrong.append(f"{module}:{node.lineno} uses {node.value.id}.{node.attr}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_long() -> None:
    long = {m: n for m, p in MODULES.items() if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_few_modules_import_pytest() -> None:
    users = []
    for module, path in MODULES.items():
        if room(module) == "pytest_layer" or module in ENTRY_POINTS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] in ("pytest", "_pytest") for name in names):
                users.append(module)
    assert len(set(users)) <= MAX_PYTEST, users


def compares_class_names(tree: ast.AST) -> bool:
    """Whether anything is decided by what a class is called."""

    def is_name(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr in ("__name__", "__qualname__")

    def is_class_name(node: ast.AST) -> bool:
        return (
            is_name(node)
            and isinstance(node, ast.Attribute)
            and (isinstance(node.value, ast.Call) or "class" in ast.dump(node.value).lower())
        )

    # Names that were given a class's name are compared in its place.
    held = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and is_class_name(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject]
        elif isinstance(node, ast.Subscript):
            sides = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            sides = [*node.args, node.func.value] if node.func.attr in LOOK_UPS else []
        else:
            continue
        if any(is_class_name(s) or (isinstance(s, ast.Name) and s.id in held) for s in sides):
            return True
    return False


#: Methods that decide by a text.
LOOK_UPS = ("get", "startswith", "endswith")


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("type(x).__name__ == 'CornerHead'", True),
        ("kind = type(x).__name__\nif kind in ('A', 'B'): pass", True),
        ("TABLE[type(head).__name__]", True),
        ("TABLE.get(type(head).__name__)", True),
        ("x.__class__.__name__ != 'A'", True),
        ("f'{type(error).__name__}: {error}'", False),
        ("isinstance(x, A)", False),
    ],
)
def test_a_comparison_of_a_class_name_is_seen(code: str, seen: bool) -> None:
    assert compares_class_names(ast.parse(code)) == seen


def test_only_families_know_classes_by_name() -> None:
    wrong = [
        module
        for module, path in MODULES.items()
        if room(module) != "families" and compares_class_names(ast.parse(path.read_text()))
    ]
    assert not wrong, wrong


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
print("compared")
'''


def test_the_device_side_needs_neither_torch_nor_mmdet() -> None:
    """Every module of those rooms is imported, and detections compared, where they are missing."""
    light = [m for m in MODULES if room(m) in LIGHT or m in LIGHT_MODULES]
    assert len(light) > 25
    names = ["torch", "torchvision", "mmcv", "mmdet", "terminaltables", "addict", "yapf"]
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(names=names, modules=light)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "compared"
