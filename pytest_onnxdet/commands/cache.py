"""``onnxdet cache``: what the cache holds, store by store; ``--prune`` takes out by age or size.

An entry is used when a graph is loaded or PyTorch's results are read. What is taken out is made
again when it is asked for: a graph is exported, PyTorch run, a checkpoint downloaded.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_onnxdet.commands.common import MISMATCH, CommandError, in_words, say, warn
from pytest_onnxdet.report.figures import size as in_units

_NAMED = 3  # of what is no entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="the cache folder; default: pytest-onnxdet in the user's cache folder, as for "
        "pytest --onnxdet-cache",
    )
    parser.add_argument(
        "--store",
        action="append",
        metavar="NAME",
        help="only this store (graphs, reference, engines, checkpoints); may be repeated",
    )
    parser.add_argument(
        "--prune", action="store_true", help="take out what --older-than and --max-size say"
    )
    parser.add_argument(
        "--older-than", metavar="AGE", help="what was not used for so long: 30d, 12h, 2w"
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        help="the longest unused, until all stores together are no larger: 2GB, 500MB, 1.5GiB",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="with --prune: say what would go, and leave it"
    )


def run(args: argparse.Namespace) -> int:
    """Lists the stores, or prunes them.

    Returns:
        The exit code: 0, or 1 where something that was to go had to stay.
    """
    from pytest_onnxdet.core.cache import (
        STORES,
        chosen,
        parse_age,
        parse_size,
        read_store,
        take_out,
    )
    from pytest_onnxdet.core.paths import user_cache
    from pytest_onnxdet.core.store import remove_orphans

    older_than = _parsed("--older-than", args.older_than, parse_age)
    max_size = _parsed("--max-size", args.max_size, parse_size)
    rules = [
        n for n, v in (("--older-than", older_than), ("--max-size", max_size)) if v is not None
    ]
    if args.prune and not rules:
        raise CommandError("--prune: say what goes: --older-than 30d, --max-size 2GB, or both")
    if not args.prune and (rules or args.dry_run):
        name = rules[0] if rules else "--dry-run"
        raise CommandError(f"{name} says what --prune takes out: add --prune")
    for name in args.store or ():
        if name not in STORES:
            raise CommandError(f"--store: {name!r}: there are {', '.join(STORES)}")
    cache = Path(os.path.expanduser(args.cache)) if args.cache else user_cache()
    if args.cache and not cache.is_dir():
        raise CommandError(f"--cache: {cache}: there is no such folder")
    stores = list(dict.fromkeys(args.store or STORES))
    found = {name: read_store(cache, name) for name in stores}
    if args.prune:
        _require_cache(cache, found, given=bool(args.cache))
    if args.prune and not args.dry_run:
        for name in stores:
            if (cache / name).is_dir() and name != "checkpoints":
                remove_orphans(cache / name)
        found = {name: read_store(cache, name) for name in stores}
    stored = {name: store.entries for name, store in found.items()}
    _tell_strange(found)
    if not args.prune:
        _list(cache, stored)
        return 0
    every = [entry for store in stored.values() for entry in store]
    unwanted = chosen(every, older_than, max_size)
    if args.dry_run:
        for entry in unwanted:
            say(f"would go: {entry.path} ({in_units(entry.size)}, unused for {_age(entry.used)})")
        total = in_units(sum(entry.size for entry in unwanted))
        say(f"{_count(len(unwanted))}, {total}, would go from {cache}")
        return 0
    gone, stay = take_out(unwanted)
    for entry, why in stay:
        warn(f"{entry.path} stays: {why}")
    left = sum(e.size for e in every) - sum(e.size for e in gone)
    say(
        f"{_count(len(gone))}, {in_units(sum(e.size for e in gone))}, taken out of {cache}; "
        f"{_count(len(every) - len(gone))}, {in_units(left)}, left"
    )
    return MISMATCH if stay else 0


def _require_cache(cache: Path, found: Mapping[str, Any], given: bool) -> None:
    """Refuses to prune a folder in which nothing shows that it is a cache of this package."""
    there = [name for name in found if (cache / name).is_dir()]
    if any(store.entries for store in found.values()) or not given:
        return
    strange = [path for store in found.values() for path in store.strange]
    if strange or not there:
        what = (
            f"{strange[0]} is no entry of one" if strange else f"it has no {in_words(list(found))}"
        )
        raise CommandError(f"--cache: {cache} is no cache of pytest-onnxdet ({what}): give one")


def _tell_strange(found: Mapping[str, Any]) -> None:
    """Names what is left alone: links, and what others put there."""
    for store in found.values():
        links = [path for path in store.strange if path.is_symlink()]
        for path in links:
            warn(f"{path} is a link, which is not followed: it stays, and does not count")
        if rest := [path for path in store.strange if path not in links]:
            more = ", ..." if len(rest) > _NAMED else ""
            names = ", ".join(path.name for path in rest[:_NAMED])
            verb = "is" if len(rest) == 1 else "are"
            warn(f"{rest[0].parent}: {names}{more} {verb} no entry of the cache: not touched")


def _parsed(option: str, text: str | None, parse: Callable[[str], Any]) -> Any:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise CommandError(f"{option}: {error}") from error


def _list(cache: Path, stored: Mapping[str, Sequence[Any]]) -> None:
    from pytest_onnxdet.core.cache import STORES

    say(f"{cache}{'' if cache.is_dir() else ' (not there yet)'}")
    rows = [
        (
            name,
            f"{len(store):,}",
            in_units(sum(entry.size for entry in store)),
            _age(min(entry.used for entry in store)) if store else "-",
            STORES[name],
        )
        for name, store in stored.items()
    ]
    every = [entry for store in stored.values() for entry in store]
    rows.append(("all", f"{len(every):,}", in_units(sum(entry.size for entry in every)), "", ""))
    table = [("store", "entries", "size", "longest unused", "holds"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for name, count, size, age, holds in table:
        say(
            f"  {name:<{widths[0]}}  {count:>{widths[1]}}  {size:>{widths[2]}}  "
            f"{age:>{widths[3]}}  {holds}".rstrip()
        )


def _count(number: int) -> str:
    return f"{number:,} entr{'y' if number == 1 else 'ies'}"


def _age(used: float) -> str:
    hours = max(0.0, time.time() - used) / 3600
    return f"{hours / 24:.0f} d" if hours >= 48 else f"{hours:.0f} h"
