"""Put the same faults into a mini and into its full-size detector, and compare the verdicts.

Usage: python tools/prediction_table.py [--models NAME,...] [--each N] [--log FILE] [--cache DIR]
       [--size PIXELS] [--threads N] [-n PROCESSES]

Of each model N faults are taken from the self-test's list at even steps, beginning elsewhere for
each model; where a fault has no place in both graphs, the next one. It is put into the same place:
the node of the same name, else one at the same depth among those whose names differ in numbers
alone. The mini is the self-test's: its trained weights, six images in batches of 3. The full-size
detector is the structure check's: the documented config, random calibrated weights, a batch of two
images, here at most --size pixels long and four fifths of that wide. Both are judged by the
self-test's own code. A verdict is red where a check refuses the mutant, and green where none does:
because its outputs are the good graph's to the bit, or no detection is farther off than the
allowance, or nothing saw it. Two verdicts agree where both are red or both are green.

Each fault is a line of the log as soon as it is done, and one that the log has is not repeated.
Exits with 1 where fewer than 95 % agree.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from prediction_sides import Detectors, Places, Sides

from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.verify.mutants import Operator, operators
from pytest_onnxdet.verify.selftest import CAUGHT, SURVIVED, MutantResult

MODELS = ("yolov3", "detr", "retinanet", "faster_rcnn")
AGREED = 0.95  # of the verdicts must agree
ROLES = ("mini", "full")

Entry = Mapping[str, Any]


def chosen(sides: Sides, place: int, each: int) -> Iterator[tuple[Operator, Places]]:
    """So many faults that both graphs take, at even steps in the self-test's list.

    Args:
        sides: the graphs.
        place: the model's among all; each begins elsewhere.
        each: how many.
    """
    every = operators()
    taken: set[str] = set()
    for number in range(each):
        start = (number * len(every)) // each + place
        for step in range(len(every)):
            operator = every[(start + step) % len(every)]
            if operator.name in taken:
                continue
            places = sides.places(operator)
            if places is not None:
                taken.add(operator.name)
                yield operator, places
                break


def red(result: Mapping[str, Any]) -> bool:
    """Whether a check refused the mutant."""
    return bool(result["mutant"] == CAUGHT)


def agree(entry: Entry) -> bool:
    """Whether the mini's verdict is the full-size detector's."""
    return red(entry["mini"]) == red(entry["full"])


def table(entries: Sequence[Entry]) -> list[str]:
    """Two Markdown tables: of the models, and of the faults by group and model."""
    head = "| model | faults | both red | both green | red in the mini alone | in full size alone |"
    lines = [f"{head} agree |", "|---|" + "---:|" * 6]
    by_model: dict[str, list[Entry]] = {}
    for entry in entries:
        by_model.setdefault(entry["model"], []).append(entry)
    for name, of_model in [*by_model.items(), ("together", list(entries))]:
        verdicts = [(red(e["mini"]), red(e["full"])) for e in of_model]
        counts = [
            verdicts.count(v) for v in ((True, True), (False, False), (True, False), (False, True))
        ]
        share = f"{sum(counts[:2]) / len(verdicts):.1%}" if verdicts else ""
        cells = [name, str(len(verdicts)), *map(str, counts), share]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| fault | group | model | mini | full size |", "|---|---|---|---|---|"]
    for entry in entries:
        texts = [_seen(entry[role]) for role in ROLES]
        wrong = "" if agree(entry) else " **differ**"
        name = f"`{entry['operator']}`{wrong}"
        lines.append(f"| {name} | {entry['group']} | {entry['model']} | {' | '.join(texts)} |")
    return lines


def _seen(result: Mapping[str, Any]) -> str:
    """A verdict in a cell: what refused it and how clearly, or why nothing did."""
    if not red(result):
        return str(result["mutant"])
    margin = result["margin"]
    return str(result["caught_by"]) + ("" if margin is None else f" {margin:.3g}")


def remarks(entries: Sequence[Entry]) -> list[str]:
    """Every disagreement, and every fault that nothing saw though it shows."""
    lines = []
    for entry in entries:
        where = f"{entry['model']}, {entry['operator']}"
        for role in ROLES:
            result = entry[role]
            if not agree(entry) or result["mutant"] == SURVIVED:
                said = _seen(result)
                lines.append(
                    f"{where}, {role} at {result['place'] or 'the whole graph'}: {said}; "
                    f"{result['why']} {json.dumps(result['effect'])}"
                )
    return lines


def _result(found: MutantResult, seconds: float) -> dict[str, Any]:
    return {**found.figures, "seconds": round(seconds, 1)}


def run_model(
    name: str,
    place: int,
    each: int,
    done: Sequence[str],
    log: Path,
    size: int,
    make: Callable[[str], Sides],
) -> None:
    """Runs the faults of one model that the log lacks, and appends them.

    Args:
        name: of the model.
        place: its place among all.
        each: how many faults.
        done: the operators that the log has of it; that many are no longer run.
        log: where lines go.
        size: of the full-size images, which the lines name.
        make: gives both sides.
    """
    if len(done) >= each:
        return
    start = time.perf_counter()
    with make(name) as sides:
        print(f"{name}: ready after {time.perf_counter() - start:.0f} s", file=sys.stderr)
        for operator, places in chosen(sides, place, each):
            if operator.name in done:
                continue
            entry: dict[str, Any] = {
                "model": name,
                "size": size,
                "operator": operator.name,
                "group": operator.group,
            }
            start = time.perf_counter()
            for role, found in zip(ROLES, sides.judged(operator, places), strict=True):
                entry[role] = _result(found, time.perf_counter() - start)
                start = time.perf_counter()
            unit = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss: bytes there, kB elsewhere
            entry["memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
            with log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            texts = [f"{role} {_seen(entry[role])} ({entry[role]['seconds']} s)" for role in ROLES]
            print(f"{name}, {operator.name}: {', '.join(texts)}", file=sys.stderr, flush=True)


def _detectors(cache: Path, size: int, threads: int, name: str) -> Sides:
    return Detectors(name, cache, size, threads)


def _read(log: Path, size: int) -> list[dict[str, Any]]:
    """What the log has of images of a size, the last line of each fault."""
    done: dict[tuple[str, str], dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        entry = json.loads(line)
        if entry["size"] == size:
            done[entry["model"], entry["operator"]] = entry
    return list(done.values())


def main(argv: Sequence[str] | None = None, make: Callable[[str], Sides] | None = None) -> int:
    """Run what the log lacks, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS), help="names, comma-separated")
    parser.add_argument("--each", type=int, default=18, help="faults of each model")
    parser.add_argument("--log", type=Path, default=Path("prediction.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path(".onnxdet_cache") / "prediction")
    parser.add_argument("--size", type=int, default=480, help="longest side of full-size images")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch and ONNX Runtime")
    parser.add_argument("-n", type=int, default=1, dest="processes", help="models at once")
    args = parser.parse_args(argv)
    both = [set(builtin_registry().names(profile)) for profile in ("mini", "full")]
    models = args.models.split(",")
    unknown = [name for name in models if not all(name in names for names in both)]
    if unknown or args.each < 1:
        parser.error(f"no model {', '.join(unknown)}" if unknown else "no fault is asked for")
    warnings.simplefilter("ignore")  # mmcv's and the tracer's, for each of eight exports
    make = make or partial(_detectors, args.cache, args.size, args.threads)
    known = _read(args.log, args.size)
    order = list(dict.fromkeys([*MODELS, *builtin_registry().names("full")]))
    jobs = [
        (name, order.index(name), args.each, [e["operator"] for e in known if e["model"] == name])
        for name in models
    ]
    if args.processes == 1:
        for job in jobs:
            run_model(*job, args.log, args.size, make)
    else:
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(run_model, *job, args.log, args.size, make) for job in jobs]
            for one in waiting:
                one.result()
    entries = [
        entry for name in models for entry in _read(args.log, args.size) if entry["model"] == name
    ]
    print("\n".join([*table(entries), "", *remarks(entries)]))
    agreed = sum(map(agree, entries))
    print(f"{agreed} of {len(entries)} verdicts agree")
    return int(not entries or agreed < AGREED * len(entries))


if __name__ == "__main__":
    raise SystemExit(main())
