"""The words of the suite: shape modes, checks, defaults, and the markers made from them.

Every pytest run of an environment in which the plugin is installed imports this module, so it
imports nothing and defines no class.
"""

from __future__ import annotations

SHAPES = ("static", "dynamic")
#: The checks in the order in which a case goes through them.
CHECKS = {
    "export": "the graph exports, is valid and keeps the contract",
    "build": "the graph builds into an engine, ahead of time and without a GPU",
    "parity": "the detections are PyTorch's",
    "accuracy": "COCO AP is PyTorch's",
    "latency": "the time for a batch is measured",
}
#: With a third image: a graph that repeats the second from there on is right for one and for two.
DEFAULT_BATCHES = (1, 2, 3)
#: The profile of the documented full-size detectors, and the marker of all their tests.
FULL = "full"
#: The profile of random weights: a case shows that the graph is right, never that AP is.
STRUCTURE = "structure"
#: What is given in place of a folder to ask for no checkpoint at all.
NONE = "none"
#: The data set of the full-size models, which ``Settings.data`` locates.
COCO = "coco_val2017"
COCO_FILES = ("annotations/instances_val2017.json", "val2017")
DEFAULT_PRECISION = "fp32"


def fixed_markers() -> dict[str, str]:
    """Markers that do not depend on what is registered, with their descriptions."""
    table = {"onnxdet": "every test that runs for onnxdet cases"}
    table |= {shape: f"onnxdet cases of {shape} input shape" for shape in SHAPES}
    table |= {check: f"onnxdet check: {text}" for check, text in CHECKS.items()}
    table[FULL] = "onnxdet cases of the full-size detectors, their structure check included"
    return table | {f"batch{n}": f"onnxdet cases of batch size {n}" for n in DEFAULT_BATCHES}
