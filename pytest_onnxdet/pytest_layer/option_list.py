"""The list of the options with a value; :mod:`pytest_onnxdet.pytest_layer.options` parses them."""

from __future__ import annotations


class Option:
    """One option with a value; ``--onnxdet-<name>`` and the ini key ``onnxdet_<name>``.

    Attributes:
        name: without the prefix, ``_`` for ``-``.
        metavar: the value's form in ``--help``.
        many: whether the value is a comma-separated list.
        help: for ``--help``.
    """

    # A plain class: dataclasses and named tuples are generated at import, which takes longer.
    def __init__(self, name: str, metavar: str, many: bool, help: str) -> None:
        self.name, self.metavar, self.many, self.help = name, metavar, many, help


OPTIONS = (
    Option(
        "config",
        "FILE",
        False,
        "Verify the detector of this MMDetection config, and nothing else: no conftest is needed. "
        "With --onnxdet-checkpoint; several detectors stand in pyproject.toml, in "
        "[tool.pytest-onnxdet.models.NAME].",
    ),
    Option(
        "checkpoint",
        "FILE|URL",
        False,
        "The weights of --onnxdet-config. Class names are the checkpoint's, else the config's.",
    ),
    Option(
        "images",
        "DIR",
        False,
        "Run --onnxdet-config on the images of this folder; without --onnxdet-annotations there "
        "is no AP, and accuracy is skipped. Default: the config's data.test.",
    ),
    Option(
        "annotations",
        "JSON|DIR",
        False,
        "A COCO json, or a folder of Pascal VOC's form (Annotations, JPEGImages), for "
        "--onnxdet-config; --onnxdet-images is then the folder of its images.",
    ),
    Option(
        "model",
        "NAME,...",
        True,
        "Verify only the models whose name matches one of these globs. "
        "Default: every model of the profile.",
    ),
    Option(
        "profile",
        "PROFILE",
        False,
        "Which set of models: 'mini', the small trained detectors that are shipped (default); "
        "'full', the documented full-size configs, which need --onnxdet-data, or "
        "--onnxdet-checkpoints=none; or a profile that a conftest registered.",
    ),
    Option(
        "backend",
        "NAME,...",
        True,
        "Verify only these backends; one that is missing is an error. "
        "Default: onnxruntime, tensorrt and what a conftest registered; one that is missing makes "
        "no tests, and a line says why. Only by name: 'onnxruntime[tensorrt-lowering]', TensorRT's "
        "graphs on ONNX Runtime, which is slow.",
    ),
    Option(
        "shape",
        "MODE,...",
        True,
        "Input shapes: 'static' (one size for all images, exact batch size) and 'dynamic'. "
        "Default: static,dynamic.",
    ),
    Option("batch", "N,...", True, "Images per batch. Default: 1,2,3."),
    Option(
        "precision",
        "TYPE,...",
        True,
        "Number types: 'fp32' (default), and what else a chosen backend computes in: 'fp16' with "
        "TensorRT 10. Cases of a backend that does not are left out.",
    ),
    Option(
        "checkpoints",
        "DIR",
        False,
        "Take the weights of every selected model from this folder: MODEL.safetensors, "
        "MODEL.pth or the documented file name; one that is not there is an error. Default: where "
        "the model's spec says; what is a URL there is downloaded into the cache. "
        "--onnxdet-checkpoints=none makes it the structure check: random weights, calibrated so "
        "that they detect something, on 2 images (see --onnxdet-limit), drawn ones unless "
        "--onnxdet-data is given. It shows whether a graph does what PyTorch does; "
        "accuracy is skipped, and every table says 'structure'.",
    ),
    Option(
        "data",
        "DIR",
        False,
        "COCO folder for the full-size models, with annotations/instances_val2017.json and "
        "val2017/.",
    ),
    Option(
        "cache",
        "DIR",
        False,
        "Keep exported graphs, engines, PyTorch's results and downloads here, for all runs and "
        "projects. Default: pytest-onnxdet in the user's cache folder.",
    ),
    Option(
        "report",
        "DIR",
        False,
        "Write report.json, report.md, report.html and metrics.txt into this folder, which is "
        "made if missing.",
    ),
    Option(
        "baseline",
        "FILE",
        False,
        "Compare with the report.json of an earlier run, and fail where AP, parity or the "
        "speed-up over PyTorch became worse than tolerances and noise allow, or where what passed "
        "is skipped or ran on another device. Latency may be skipped, as it is with -n. Checks "
        "that this run leaves out are listed and do not fail.",
    ),
    Option(
        "limit",
        "N",
        False,
        "Verify on the first N images of a data set only. Default: all; 2 with "
        "--onnxdet-checkpoints=none.",
    ),
    Option(
        "case_timeout",
        "SECONDS",
        False,
        "End a check of a case that takes longer, with what it is the first to need, as an export; "
        "its outcome is 'timeout', and the rest goes on. What does not come back to Python ends "
        "its process: with -n (1 or more) the rest goes on then, too, as it does where a process "
        "dies ('crashed'). Default: no limit.",
    ),
)
