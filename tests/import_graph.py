"""The import graph of a package, read from its source: imports anywhere in it, run or not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

#: When an import happens: as the module is loaded, in a function, or for type checkers only.
LOAD, CALL, TYPES = "load", "call", "types"
IMPORTERS = ("importlib.import_module", "importlib.__import__", "__import__")


@dataclass(frozen=True)
class Import:
    """One import.

    Attributes:
        module: the module's full name; "" where it is computed, so that nobody can read it here.
        name: what is taken from it; "": itself.
        line: where.
        when: ``load``, ``call`` or ``types``.
        alias: the variable that holds it; "": none.
    """

    module: str
    name: str
    line: int
    when: str
    alias: str = ""

    @property
    def top(self) -> str:
        """The distribution's own name: ``torch`` of ``torch.nn``."""
        return self.module.partition(".")[0]


class Source:
    """A module's source.

    Args:
        name: the module's full name.
        path: its file.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.tree = ast.parse(path.read_text())

    @cached_property
    def imports(self) -> list[Import]:
        """All imports, also those by a call of importlib."""
        return list(self._imports(self.tree, LOAD))

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Variables that hold an import, with what they hold."""
        return {
            one.alias: f"{one.module}.{one.name}".rstrip(".") for one in self.imports if one.alias
        }

    @cached_property
    def _importers(self) -> dict[str, str]:
        """Variables that hold importlib, or one of its functions that import."""
        held = {name: name for name in ("importlib", "__import__")}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                held |= {a.asname or a.name: a.name for a in node.names if a.name == "importlib"}
            elif isinstance(node, ast.ImportFrom) and node.module == "importlib":
                held |= {a.asname or a.name: f"importlib.{a.name}" for a in node.names}
        return held

    def _imports(self, node: ast.AST, when: str, alias: str = "") -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for one in node.names:
                yield Import(one.name, "", node.lineno, when, one.asname or "")
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute("." * node.level + (node.module or ""))
            for one in node.names:
                yield Import(base, one.name, node.lineno, when, one.asname or one.name)
        elif isinstance(node, ast.Call) and self.is_importer(node):
            yield Import(self.imported(node), "", node.lineno, when, alias)
        for child in ast.iter_child_nodes(node):
            yield from self._imports(child, self._when(node, child, when), _target(node, child))

    @staticmethod
    def _when(node: ast.AST, child: ast.AST, when: str) -> str:
        if isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            return when if child in node.orelse else TYPES
        functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        return CALL if isinstance(node, functions) and when == LOAD else when

    def is_importer(self, node: ast.Call) -> bool:
        """Whether a call imports a module."""
        name, dot, rest = ast.unparse(node.func).partition(".")
        return f"{self._importers.get(name, '')}{dot}{rest}" in IMPORTERS

    def imported(self, node: ast.Call) -> str:
        """What a call imports; "": it is computed."""
        name = node.args[0] if node.args else None
        return self._absolute(name.value) if isinstance(name, ast.Constant) else ""

    def _absolute(self, name: str) -> str:
        """A module's full name, of one that may begin with dots."""
        level = len(name) - len(name.lstrip("."))
        if not level:
            return name
        here = self.name.split(".")
        base = here[: len(here) - level + (self.path.name == "__init__.py")]
        return ".".join([*base, *filter(None, [name.lstrip(".")])])

    @cached_property
    def private_uses(self) -> list[tuple[str, int]]:
        """What is taken by a private name out of an import: its full name, and the line."""
        used = [(f"{one.module}.{one.name}".rstrip("."), one.line) for one in self.imports]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                owner, name = self._full_name(node.value), node.attr
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                owner = self._full_name(node.args[0])
                name = str(getattr(node.args[1], "value", ""))
            else:
                continue
            if owner:
                used.append((f"{owner}.{name}", node.lineno))
        return [(name, line) for name, line in used if re.search(r"(^|\.)_(?!_)", name)]

    def _full_name(self, node: ast.AST) -> str:
        """Of an expression that is an import, or something in it, the full name; else ""."""
        if isinstance(node, ast.Name):
            if node.id in self.aliases:
                return self.aliases[node.id]
            plain = {one.top for one in self.imports if not one.name and not one.alias}
            return node.id if node.id in plain else ""
        if isinstance(node, ast.Attribute):
            owner = self._full_name(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        if isinstance(node, ast.Call) and self.is_importer(node):
            return self.imported(node)
        return ""


def _target(node: ast.AST, child: ast.AST) -> str:
    """The variable that a statement puts the value of its part into."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and child is node.value:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return next((target.id for target in targets if isinstance(target, ast.Name)), "")
    return ""


class Package:
    """A package's modules.

    Args:
        root: its folder, which has its name.
        without: folders at its top that are not read.
    """

    def __init__(self, root: Path, without: tuple[str, ...] = ()) -> None:
        self.root, self.name = root, root.name
        self.modules: dict[str, Source] = {}
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] not in without:
                inner = parts[:-1] if parts[-1] == "__init__" else parts
                full = ".".join((self.name, *inner))
                self.modules[".".join(inner) or "__init__"] = Source(full, path)

    def inner(self, full: str) -> str | None:
        """A module's name below the package: "" is the package itself, None another one."""
        if full == self.name:
            return ""
        name = full.removeprefix(f"{self.name}.")
        return None if name == full else name

    def imports(self, module: str) -> Iterator[tuple[str, str, Import]]:
        """What a module imports of the package: the module, what of it ("" for all), the import."""
        for one in self.modules[module].imports:
            base = self.inner(one.module)
            if base is None:
                continue
            within = f"{base}.{one.name}".strip(".")
            if within in self.modules:
                yield within, "", one
            else:
                yield base, one.name, one

    def loads(self, names: tuple[str, ...]) -> set[str]:
        """The modules that load one of these packages, of themselves or over others."""
        loading = {
            module
            for module, source in self.modules.items()
            if any(one.when == LOAD and one.top in names for one in source.imports)
        }
        before = -1
        while before != len(loading):
            before = len(loading)
            loading |= {
                module
                for module in self.modules
                if any(of in loading and one.when == LOAD for of, _, one in self.imports(module))
            }
        return loading

    def folders_without_init(self) -> list[str]:
        """Folders with modules that setuptools takes for no package and leaves out of a wheel."""
        folders = {source.path.parent for source in self.modules.values()}
        inner = {part for folder in folders for part in (folder, *folder.parents)}
        return sorted(
            str(folder.relative_to(self.root))
            for folder in inner
            if folder.is_relative_to(self.root) and not (folder / "__init__.py").is_file()
        )
