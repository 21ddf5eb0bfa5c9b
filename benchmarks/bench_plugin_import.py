"""What the installed plugin costs every pytest run that does not use it: at most 30 ms.

Runs ``pytest --collect-only`` on an empty test file, with the plugin and without it in turns, and
prints each side's fastest and median run and the median processor time. What the plugin adds is
the median over the rounds of the difference within a round: one lucky or disturbed run does not
move it, and drift cancels. Exits with 1 when that is over the budget.

    python benchmarks/bench_plugin_import.py [ROUNDS]
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

BUDGET_MS = 30.0
ROOT = Path(__file__).resolve().parents[1]
PLUGIN = "pytest_onnxdet.plugin"


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    names = [p.name for p in metadata.entry_points(group="pytest11") if p.value == PLUGIN]
    # Where the project is not installed it is loaded by name, which costs the same.
    present = [] if names else ["-p", PLUGIN]
    absent = ["-p", f"no:{names[0]}"] if names else []
    runs: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_empty.py").touch()
        Path(folder, "pytest.ini").write_text("[pytest]\n")
        for number in range(rounds + 1):
            for name, arguments in (("without", absent), ("with", present)):
                spent = collect(folder, arguments)
                if number:  # the first run compiles and warms the disk cache
                    runs[name].append(spent)
    figures = {}
    for name, values in runs.items():
        wall, processor = zip(*values, strict=True)
        figures[name] = (min(wall), statistics.median(wall), statistics.median(processor))
    for name, line in figures.items():
        print(
            f"{name:8s} fastest {line[0]:7.1f} ms   median {line[1]:7.1f} ms   "
            f"processor {line[2]:7.1f} ms"
        )
    wall, processor = (
        statistics.median(b[k] - a[k] for a, b in zip(*runs.values(), strict=True)) for k in (0, 1)
    )
    print(f"added    {wall:.1f} ms, processor {processor:.1f} ms (budget {BUDGET_MS:g} ms)")
    return int(wall > BUDGET_MS)


def collect(folder: str, arguments: list[str]) -> tuple[float, float]:
    """Wall and processor time of one ``pytest --collect-only``, in milliseconds."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Where bytecode is not kept, pytest rewrites every plugin's source anew in each run.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 5:  # nothing collected
        raise SystemExit(done.stdout + done.stderr)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall * 1000, processor * 1000


if __name__ == "__main__":
    raise SystemExit(main())
