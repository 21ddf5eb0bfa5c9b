"""``custom_imports``: the modules that a config wants imported, which register its own parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module, invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.notes import note
from pytest_onnxdet.models.checkpoint import BuildError, one_line

#: Packages that configs of MMDetection 2 import, and the release that goes with it.
_RELEASES = {"mmcls": "mmcls<1", "mmtrack": "mmtrack<1", "mmselfsup": "mmselfsup<1"}
#: Folders of configs that are on the module path on their behalf.
_APPENDED: set[Path] = set()
_FORM = "write custom_imports = dict(imports=['package.module'], allow_failed_imports=False)"


def import_custom(wanted: Any, path: Path) -> None:
    """Imports what a config's ``custom_imports`` names; a package beside the config is found.

    Args:
        wanted: the value; None: nothing.
        path: the config, for messages.

    Raises:
        BuildError: a module is not there, or fails on import; the message says which, where it was
            looked for and what to set.
    """
    if wanted is None:
        return
    if not isinstance(wanted, Mapping):
        raise BuildError(f"{path}: custom_imports is {wanted!r}: {_FORM}")
    names = wanted.get("imports") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BuildError(f"{path}: custom_imports.imports is {names!r}: {_FORM}")
    folder = path.absolute().parent
    for name in names:
        top = name.partition(".")[0]
        _make_importable(top, folder)
        if other := _taken_from(top, folder):
            raise BuildError(
                f"{path}: custom_imports: {top} is {other / top}, as another config of this run "
                f"has it, and {folder} has a {top} of its own: rename one, or verify the two in "
                "runs of their own"
            )
        why = _failure(name, path)
        if why is None:
            continue
        if not wanted.get("allow_failed_imports", False):
            raise BuildError(f"{path}: custom_imports: {why}")
        note(f"{path}: custom_imports: {why}; it is left out, as allow_failed_imports asks")


def _make_importable(top: str, folder: Path) -> None:
    """Appends a config's folder to the module path where it alone has a package of this name."""
    invalidate_caches()  # a module may have been written since this process last looked
    if _is_in(folder, top) and top not in sys.modules and find_spec(top) is None:
        sys.path.append(str(folder))
        _APPENDED.add(folder)


def _is_in(folder: Path, top: str) -> bool:
    return (folder / top).is_dir() or (folder / f"{top}.py").is_file()


def _taken_from(top: str, folder: Path) -> Path | None:
    """Another config's folder, where a name means what lies there and not what lies beside this."""
    if not _is_in(folder, top):
        return None
    loaded = sys.modules.get(top)
    spec = find_spec(top) if loaded is None else getattr(loaded, "__spec__", None)
    if spec is None:
        return None
    places = spec.submodule_search_locations or filter(None, [spec.origin])
    folders = [Path(place).absolute().parent for place in places]
    return next((one for one in folders if one in _APPENDED and one != folder), None)


def _failure(name: str, path: Path) -> str | None:
    """Why a module cannot be imported, in words; None: it is imported."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing != name and not name.startswith(f"{missing}."):
            return f"{name} needs {missing}, which is not installed: install it"
        return f"there is no module {missing!r}; looked in {_looked()}: {_remedy(name, path)}"
    except (Exception, SystemExit) as error:  # a module's own code: anything can come out of it
        return f"{name} fails when it is imported: {one_line(error)}: correct it"
    return None


def _looked() -> str:
    folders = [os.path.abspath(entry or os.curdir) for entry in sys.path]
    own = [
        folder
        for folder in dict.fromkeys(folders)
        if os.path.isdir(folder)
        and "site-packages" not in folder
        and not folder.startswith((sys.base_prefix, sys.prefix))
    ]
    return ", ".join([*own[:4], "the installed packages"])


def _remedy(name: str, path: Path) -> str:
    """What to set: the folder that holds the package, where one is in sight."""
    top = name.partition(".")[0]
    for folder in (Path.cwd(), *path.absolute().parents):
        if (folder / top).is_dir() or (folder / f"{top}.py").is_file():
            if str(folder) not in sys.path:
                return f"set PYTHONPATH={folder}, where {top} is"
            return f"{folder / top} is there, without this module: correct the name"
    if top in _RELEASES:
        return (
            f"install it: pip install '{_RELEASES[top]}' (what it needs in turn, such as timm, too)"
        )
    return f"set PYTHONPATH to the folder that holds {top}, or install the package"
