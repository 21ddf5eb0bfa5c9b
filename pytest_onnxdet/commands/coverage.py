"""``onnxdet coverage``: which detectors can be verified, and which are refused, and why.

Each config's detector gets random weights that detect something and small images. It is exported
with dynamic shapes, run on ONNX Runtime in batches of 2, and judged as `pytest --onnxdet` judges:
raw outputs, every detection, each batch against its images one by one. A detector runs in a
process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.commands.common import MISMATCH, CommandError, say
from pytest_onnxdet.core.files import no_file
from pytest_onnxdet.core.progress import Progress
from pytest_onnxdet.run.apart import ProcessEnded, call_apart
from pytest_onnxdet.run.coverage import DIFFERS, FAILED, OUTCOMES, SIZE, Covered, cover

if TYPE_CHECKING:
    from pytest_onnxdet.models.structures import Structure

_TIMEOUT_S = 900.0
_REASON = 240  # letters of a reason in a table
_HEAD = (
    "| config | alike | outcome | box, px | score | mask | detections | s | why |",
    f"|---|--:|---|{'--:|' * 5}---|",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "configs",
        nargs="*",
        metavar="CONFIG",
        help="a path, or a path below MMDetection's configs; default: one config of each structure "
        "among MMDetection's",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=SIZE,
        metavar="PX",
        help=f"the longer side of the images, pixels (default: {SIZE})",
    )
    parser.add_argument(
        "-n",
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="how many detectors are tried at the same time (default: 1)",
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        help="write each result into this file as soon as it is there, a line of JSON each; what "
        "the file has already is not tried again",
    )
    parser.add_argument("--out", metavar="FILE", help="write the table here too, as Markdown")
    parser.add_argument(
        "--timeout",
        type=float,
        default=_TIMEOUT_S,
        metavar="S",
        help=f"seconds after which a detector counts as failed (default: {_TIMEOUT_S:.0f})",
    )
    parser.add_argument(
        "--known", action="store_true", help="try nothing: the table of what --log has already"
    )
    parser.add_argument(
        "--list", action="store_true", help="only list the structures and their configs"
    )


def run(args: argparse.Namespace) -> int:
    """Tries the configs and prints a table.

    Returns:
        The exit code: 1 where a detector differs, or is neither verified nor refused by name.
    """
    for name, least in (("size", 32), ("processes", 1)):
        if getattr(args, name) < least:
            raise CommandError(f"--{name} {getattr(args, name)}: give at least {least}")
    if not 0 < args.timeout < math.inf:
        raise CommandError(f"--timeout {args.timeout:g}: give a number of seconds above 0")
    if args.known and not args.log:
        raise CommandError("--known shows what a log has: name it with --log")
    groups = _groups(args.configs)
    _check_targets(args, groups)
    if args.list:
        for group in groups:
            say(f"{_shown(group.configs[0])} ({len(group.configs)}): {_parts(group)}")
        return 0
    by_config = {str(group.configs[0]): group for group in groups}
    with contextlib.ExitStack() as stack:
        results = _read(args.log, args.size) if args.log else {}
        results = {name: one for name, one in results.items() if name in by_config}
        log = stack.enter_context(_appended(args.log)) if args.log and not args.known else None
        todo = [] if args.known else [Path(name) for name in by_config if name not in results]
        progress = stack.enter_context(Progress("coverage", len(groups), "detectors"))
        progress.start(len(groups) - len(todo))
        say("\n".join([*_HEAD, *(row(by_config[name], one) for name, one in results.items())]))
        for one in _tried(todo, args.size, args.timeout, args.processes):
            results[one.config] = one
            if log is not None:
                log.write(json.dumps({**asdict(one), "size": args.size}, default=float) + "\n")
                log.flush()
            say(row(by_config[one.config], one))
            progress.advance()
    known = {name: results[name] for name in by_config if name in results}
    say("\n".join(["", *summary(by_config, known)]))
    if args.out:
        Path(args.out).write_text("\n".join(table(by_config, known)) + "\n", encoding="utf-8")
    return MISMATCH if any(one.outcome in (DIFFERS, FAILED) for one in known.values()) else 0


def _check_targets(args: argparse.Namespace, groups: Sequence[Structure]) -> None:
    """Refuses to write over what is read; raises `CommandError`."""
    from pytest_onnxdet.commands.common import writable
    from pytest_onnxdet.commands.targets import bases, require_apart

    configs = [group.configs[0] for group in groups] if args.configs else []
    read = [one for path in configs for one in (("the config", path), *bases(path))]
    for option, name in (("--out", args.out), ("--log", args.log)):
        if name:
            require_apart(option, writable(Path(name), option), read)
    if args.out and args.log:
        require_apart("--out", Path(args.out), [("--log's file", args.log)])


def _groups(names: Sequence[str]) -> list[Structure]:
    from pytest_onnxdet.models.build import config_path, config_root
    from pytest_onnxdet.models.spec import ModelSpec
    from pytest_onnxdet.models.structures import Structure, documented_configs, structures

    if not names:
        return structures(documented_configs(config_root()))
    paths = []
    for name in names:
        own = Path(name)
        known = os.path.abspath(name) if no_file(own) else name
        paths.append(own.resolve() if own.is_file() else config_path(ModelSpec("model", known)))
    return [Structure((), (path,)) for path in dict.fromkeys(paths)]


def _tried(configs: Sequence[Path], size: int, timeout: float, processes: int) -> Iterator[Covered]:
    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(in_a_process, config, size, timeout) for config in configs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_a_process(config: Path, size: int, timeout: float) -> Covered:
    """Tries one config in a process of its own.

    Args:
        config: the file.
        size: the longer side of the images, pixels.
        timeout: seconds after which the process is ended.
    """
    try:
        return call_apart(cover, config, size, timeout=timeout)
    except TimeoutError as error:
        return Covered(str(config), FAILED, str(error), seconds=timeout)
    except ProcessEnded as error:
        return Covered(str(config), FAILED, str(error))


def _covered(entry: Mapping[str, Any]) -> Covered:
    known = {name: entry[name] for name in Covered.__dataclass_fields__}
    return Covered(**{**known, "sizes": tuple(tuple(size) for size in known["sizes"])})


def _read(name: str, size: int) -> dict[str, Covered]:
    """What a log has already of images of this size."""
    path = Path(name)
    if not path.is_file():
        return {}
    results = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            if entry["size"] == size:
                results[entry["config"]] = _covered(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(
                f"--log {name}: line {number} is no result of this command: name another file"
            ) from error
    return results


def _appended(name: str) -> Any:
    try:
        return Path(name).open("a", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--log {name}: {error.strerror}") from error


def table(groups: Mapping[str, Structure], results: Mapping[str, Covered]) -> list[str]:
    """A Markdown table, a row for each structure, and how many came out how.

    Args:
        groups: the structures, by the config that stands for each.
        results: of those that were tried.
    """
    rows = [row(group, results.get(config)) for config, group in groups.items()]
    return [*_HEAD, *rows, "", *summary(groups, results)]


def row(group: Structure, one: Covered | None) -> str:
    """A structure's row; None: it was not tried."""
    figures = (one.figures if one is not None else None) or {}
    numbers = [figures.get(name) for name in ("max_box_px", "max_score", "max_mask")]
    cells = [
        _shown(group.configs[0]),
        str(len(group.configs)),
        "not run" if one is None else one.outcome,
        *("" if number is None else f"{number:.1e}" for number in numbers),
        str(int(figures.get("detections") or 0) or ""),
        "" if one is None else f"{one.seconds:.0f}",
        "" if one is None else _one_cell(one.reason),
    ]
    return f"| {' | '.join(cells)} |"


def summary(groups: Mapping[str, Structure], results: Mapping[str, Covered]) -> list[str]:
    """How many came out how, a line for each outcome.

    Args:
        groups, results: as for :func:`table`.
    """
    structures, configs = Counter[str](), Counter[str]()
    for name, group in groups.items():
        outcome = results[name].outcome if name in results else "not run"
        structures[outcome] += 1
        configs[outcome] += len(group.configs)
    return [
        f"- {outcome}: {structures[outcome]} structures, {configs[outcome]} configs: {text}"
        for outcome, text in {**OUTCOMES, "not run": "not tried yet"}.items()
        if structures[outcome]
    ]


def _one_cell(text: str) -> str:
    words = " ".join(text.split()).replace("|", "\\|")
    return words if len(words) <= _REASON else f"{words[:_REASON]}..."


def _parts(group: Structure) -> str:
    return ", ".join(f"{place} {kind}" for place, kind in group.parts)


def _shown(path: Path) -> str:
    """A path below mmdet's configs where it is one, else the path."""
    from pytest_onnxdet.models.build import config_root

    root = config_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
