"""Is mmcv-full built in units, with -O2, as fast as the stock build?

Times nms, roi_align and deformable convolution on one core, in processes of the two builds by
turns, and compares medians pair by pair. The stock wheel is built where the per-user cache lacks
it, in 9 minutes of 2 cores. Bar: 1.05 for each.

Usage: python benchmarks/bench_mmcv_builds.py [--turns N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from compare_mmcv_builds import both_builds, run_with
from setup_wheel import STOCK, UNITY

BAR = 1.05

CHILD = """
import json, statistics, time, torch
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision
ensure_torchvision()
from mmcv import ops
torch.set_num_threads(1)
torch.manual_seed(0)
corner = torch.rand(4000, 2) * 600
boxes, scores = torch.cat([corner, corner + 5 + torch.rand(4000, 2) * 90], 1), torch.rand(4000)
pixels = torch.randn(1, 64, 80, 96)
rois = torch.cat([torch.zeros(200, 1), boxes[:200]], 1)
align = ops.RoIAlign(7, 1 / 8, 2)
offset, weight = torch.randn(1, 18, 80, 96), torch.randn(64, 64, 3, 3)
mask = torch.rand(1, 9, 80, 96)
subjects = {
    "nms": lambda: ops.nms(boxes, scores, 0.5),
    "roi_align": lambda: align(pixels, rois),
    "deform_conv": lambda: ops.deform_conv2d(pixels, offset, weight, 1, 1),
    "modulated_deform_conv": lambda: ops.modulated_deform_conv2d(
        pixels, offset, mask, weight, None, 1, 1, 1, 1, 1),
}
times = {}
with torch.no_grad():
    for name, run in subjects.items():
        run()
        samples = []
        for _ in range(30):
            start = time.perf_counter()
            run()
            samples.append((time.perf_counter() - start) * 1e3)
        times[name] = statistics.median(samples)
print(json.dumps(times))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=7, help="pairs of processes; default: 7")
    turns = parser.parse_args().turns
    figures: dict[str, list[dict[str, float]]] = {UNITY: [], STOCK: []}
    with both_builds() as builds:
        for _ in range(turns):
            for recipe, folder in builds.items():
                figures[recipe].append(json.loads(run_with(folder, "-c", CHILD)))
    held = True
    print(f"{'operator':<24} {'units, ms':>10} {'stock, ms':>10} {'ratio':>7}")
    for name in figures[UNITY][0]:
        pairs = [(a[name], b[name]) for a, b in zip(figures[UNITY], figures[STOCK], strict=True)]
        ratio = statistics.median(a / b for a, b in pairs)
        held = held and ratio <= BAR
        first, second = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:<24} {first:>10.3f} {second:>10.3f} {ratio:>7.3f}")
    print(f"\nbar {BAR}: {'held' if held else 'NOT HELD'}")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
