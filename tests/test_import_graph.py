"""The reader of import graphs sees every way to import, on packages of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_graph import CALL, LOAD, TYPES, Package


def package(folder: Path, **sources: str) -> Package:
    """A package ``house``; of each module the name, with ``__`` for a dot, and the source."""
    root = folder / "house"
    root.mkdir()
    (root / "__init__.py").touch()
    for name, source in sources.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    for folder in filter(Path.is_dir, root.rglob("*")):
        (folder / "__init__.py").touch()
    return Package(root)


@pytest.mark.parametrize(
    "code",
    [
        "import house.a.b",
        "import house.a.b as c",
        "from house.a import b",
        "from house.a.b import thing",
        "from ..a import b",
        "from ..a.b import thing as other",
        "def call():\n    import house.a.b",
        "if TYPE_CHECKING:\n    from house.a.b import thing",
        "import importlib\nimportlib.import_module('house.a.b')",
        "import importlib as i\nx = i.import_module('house.a.b')",
        "from importlib import import_module\nimport_module('house.a.b').thing",
        "from importlib import import_module as load\nload('..a.b', __package__)",
        "__import__('house.a.b')",
        "lambda: __import__('house.a.b')",
    ],
)
def test_every_way_to_import_is_seen(tmp_path: Path, code: str) -> None:
    house = package(tmp_path, a__b="thing = 1", d__e=code)
    assert {of for of, _, _ in house.imports("d.e")} == {"a.b"}


@pytest.mark.parametrize(
    "code",
    [
        "from house.a.b import _thing",
        "from house.a.b import _thing as thing",
        "from house.a import _b",
        "import house.a._b",
        "from house.a import b\nb._thing",
        "from house.a import b as c\nc._thing",
        "from ..a import b\nb._thing",
        "import house.a.b as c\nc._thing",
        "import house.a.b\nhouse.a.b._thing",
        "import house.a as a\na.b._thing",
        "from house.a.b import Thing\nThing._make()",
        "from house.a.b import Thing\nThing.part._make()",
        "from house.a import b\ngetattr(b, '_thing')",
        "from importlib import import_module\nimport_module('house.a.b')._thing",
        "import importlib\nc = importlib.import_module('house.a.b')\nc._thing",
        "def call():\n    import house.a.b as c\n    return c._thing",
    ],
)
def test_every_use_of_a_private_name_is_seen(tmp_path: Path, code: str) -> None:
    house = package(tmp_path, a__b="", d__e=code)
    uses = [name for name, _ in house.modules["d.e"].private_uses]
    assert uses and all(name.startswith("house.a.") for name in uses)


def test_what_is_public_is_no_private_use(tmp_path: Path) -> None:
    code = "import house.a.b as c\nc.thing, c.__name__, self._own, c.thing(_mine=1)"
    assert package(tmp_path, a__b="", d__e=code).modules["d.e"].private_uses == []


@pytest.mark.parametrize(
    ("code", "when"),
    [
        ("import torch.nn", LOAD),
        ("try:\n    import torch\nexcept ImportError: pass", LOAD),
        ("class A:\n    import torch", LOAD),
        ("def call():\n    from torch import nn", CALL),
        ("class A:\n    def call(self):\n        import torch", CALL),
        ("if TYPE_CHECKING:\n    from torch import nn", TYPES),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import torch", LOAD),
        ("if typing.TYPE_CHECKING:\n    import torch", TYPES),
        ("if not TYPE_CHECKING:\n    import torch", LOAD),
    ],
)
def test_when_an_import_happens_is_known(tmp_path: Path, code: str, when: str) -> None:
    (one,) = package(tmp_path, a__b=code).modules["a.b"].imports
    assert (one.top, one.when) == ("torch", when)


def test_a_computed_import_has_no_name(tmp_path: Path) -> None:
    code = "from importlib import import_module\nimport_module(f'house.{x}')"
    imports = package(tmp_path, a__b=code).modules["a.b"].imports
    assert [one.module for one in imports] == ["importlib", ""]


def test_what_loads_a_package_over_others_is_known(tmp_path: Path) -> None:
    house = package(
        tmp_path,
        a__first="import torch",
        a__second="from house.a import first",
        a__third="import house.a.second",
        b__late="def call():\n    from house.a import first",
        b__types="if TYPE_CHECKING:\n    import torch",
    )
    assert house.loads(("torch",)) == {"a.first", "a.second", "a.third"}


def test_a_folder_without_an_init_is_seen(tmp_path: Path) -> None:
    house = package(tmp_path, a__b="", c__d__e="")
    assert house.folders_without_init() == []
    for folder in ("a", "c"):
        (tmp_path / "house" / folder / "__init__.py").unlink()
    again = Package(tmp_path / "house")
    assert again.folders_without_init() == ["a", "c"]
    assert "a.b" in again.modules
