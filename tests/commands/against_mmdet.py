"""``onnxdet test`` held to mmdet's own figures: the mini, the data set and the comparison.

mmdet's are those of ``single_gpu_test`` and the data set's ``evaluate``, of PyTorch's detector.
"""

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cli_models import Ran

from pytest_onnxdet.cli import main

Run = Callable[..., Ran]
Document = dict[str, Any]
ORT = ("--backend", "onnxruntime")
IMAGES = 8
TOLERANCE = 1e-4 + 1e-9  # AP; mmdet gives four decimals
MIN_AP = 0.3  # a comparison of 0 with 0 would compare nothing


class Mini(NamedTuple):
    """A trained detector, its config as a file, and its dynamic graph."""

    detector: Any
    config: Path
    graph: Path


def exported(name: str, folder: Path) -> Mini:
    """A mini of the package, exported into ``folder``."""
    from pytest_onnxdet.commands.common import build, open_config

    model = open_config(f"mini:{name}", None)
    config, graph = folder / f"{name}.py", folder / f"{name}.onnx"
    model.cfg.dump(str(config))
    words = ["export", f"mini:{name}", "--output-file", str(graph), "--shape", "128", "160"]
    assert main([*words, "--dynamic-export", "--opset-version", "17"]) == 0
    return Mini(build(model, None), config, graph)


def theirs(mini: Mini, data: dict[str, Any], metrics: Any, **how: Any) -> dict[str, float]:
    """mmdet's figures.

    Args:
        mini: the detector.
        data: settings of the data set, which replace those of the mini's.
        metrics: for the data set's ``evaluate``.
        how: more arguments of it.
    """
    from mmcv import Config
    from mmcv.parallel import MMDataParallel
    from mmdet.apis import single_gpu_test
    from mmdet.datasets import build_dataloader, build_dataset

    test = Config.fromfile(str(mini.config)).data.test
    test.update(data, test_mode=True)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = build_dataset(test)
        loader = build_dataloader(
            dataset, samples_per_gpu=1, workers_per_gpu=0, dist=False, shuffle=False
        )
        model = MMDataParallel(copy.deepcopy(mini.detector), device_ids=[-1])
        figures = dataset.evaluate(single_gpu_test(model, loader), metric=metrics, **how)
    return {name: float(value) for name, value in figures.items() if not isinstance(value, str)}


def compare(
    onnxdet: Run,
    mini: Mini,
    ours: dict[str, Any],
    mmdets: dict[str, Any] | None = None,
    metrics: tuple[str, ...] = ("bbox", "segm"),
    min_ap: float = MIN_AP,
) -> str:
    """Holds every figure to mmdet's; returns what the command said on stderr."""
    config = Path(ours["img_prefix"]).parent / "config.py"
    config.write_text(f"{mini.config.read_text()}\ndata['test'].update({ours!r})\n", "utf-8")
    ran = onnxdet("test", config, mini.graph, *ORT, "--eval", *metrics)
    assert ran.code == 0, ran.err
    lines = [line.split(": ") for line in ran.out.splitlines() if line.count(": ") == 1]
    found = {name: value for name, value in lines if name.startswith(metrics)}
    wanted = theirs(mini, ours if mmdets is None else mmdets, list(metrics))
    assert len(wanted) == 6 * len(metrics)
    for name, value in wanted.items():
        assert abs(float(found[name]) - value) <= TOLERANCE, (name, found[name], value)
    assert min(wanted[f"{metric}_mAP"] for metric in metrics) > min_ap
    return ran.err


def written(folder: Path, images: Path, document: Document, name: str = "a") -> dict[str, Any]:
    """The settings of a data set whose annotations are written."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    return {"ann_file": str(path), "img_prefix": str(images)}
