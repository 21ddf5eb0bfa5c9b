"""Train a mini detector on drawn scenes and store its weights with what it reached.

Usage: python tools/train_mini.py MODEL [--steps N] [--lr RATE] [--start NAME] [--alike PART]
                                        [--seed S] [--resume] [--out DIR]

The same model, steps and seed give the same weights on the same machine and versions: each
step seeds every random number generator by (seed, step), so a resumed run does not differ.
The validation split is drawn from another seed than the scenes that are learnt from.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from dense_supervision import DenseSupervision
from tqdm import tqdm

from pytest_onnxdet.data import scenes as drawing
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.data.scenes import TRAIN_SEED, Scene, draw_scene
from pytest_onnxdet.models.build import config_path, initialise, load_config, make_detector
from pytest_onnxdet.models.mini import WEIGHTS, mini_specs, read_header
from pytest_onnxdet.models.spec import ModelSpec

SCENES = 1536
SAVE_EVERY = 250
STATE = Path(__file__).resolve().parents[1] / "build" / "train_mini"


@dataclass(frozen=True)
class Recipe:
    """How a mini is trained.

    ``start`` names the mini whose weights it starts from, as far as names and shapes agree
    (the backbone at least), so that the shapes are learnt only once.
    """

    steps: int
    start: str | None = None
    rate: float = 2e-3
    batch: int = 4
    norm: float = 10.0  # of the gradient, at most
    dense: bool = False  # also teach the encoder's cells, see dense_supervision.py
    # The part of the batches that hold images of like shape, and so hardly any padding. DETR tells
    # positions from the image's border: trained on padded images alone, it misplaces others.
    alike: float = 0.0


RECIPES = {
    "retinanet": Recipe(1500, batch=8),
    "fcos": Recipe(800, "retinanet"),
    "fsaf": Recipe(800, "retinanet"),
    "ssd": Recipe(1500),
    "yolov3": Recipe(1500, "retinanet", norm=35.0),
    "faster_rcnn": Recipe(1000, "retinanet"),
    "cascade_rcnn": Recipe(700, "faster_rcnn", rate=1e-3),
    "mask_rcnn": Recipe(700, "faster_rcnn", rate=1e-3),
    "cascade_mask_rcnn": Recipe(600, "cascade_rcnn", rate=1e-3),
    "cornernet": Recipe(1500, norm=35.0),
    "detr": Recipe(11000, "retinanet", rate=1e-3, batch=8, norm=5.0, dense=True, alike=0.5),
    "point_rend": Recipe(700, "mask_rcnn", rate=1e-3),
    "yolox": Recipe(2000, batch=8),
    "atss": Recipe(800, "retinanet"),
    "deformable_detr": Recipe(3000, "retinanet", rate=1e-3, norm=1.0),
    "solov2": Recipe(1500, "mask_rcnn"),
}


def training_scenes(quiet: bool) -> list[Scene]:
    """The scenes to learn from: drawn once, then kept beside the checkpoints."""
    version = hashlib.sha256(Path(drawing.__file__).read_bytes()).hexdigest()[:12]
    cached = STATE / f"scenes-{SCENES}-{version}.pickle"
    if cached.exists():
        return list(pickle.loads(cached.read_bytes()))
    indices = tqdm(range(SCENES), "drawing", disable=quiet, leave=False)
    scenes = [draw_scene(TRAIN_SEED, index) for index in indices]
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(pickle.dumps(scenes))
    return scenes


@dataclass(frozen=True)
class Prepared:
    """How a batch is made of scenes.

    Attributes:
        transforms: the composed transforms.
        scale: the entries (scale or scale factor) that they expect.
        multiple: what the padded height and width are a multiple of.
        square: whether height and width are padded to the larger of them.
        padding: the value around an image, before normalising where there is none.
    """

    transforms: Any
    scale: dict[str, Any]
    multiple: int
    square: bool
    padding: float


def training_pipeline(cfg: Any) -> Prepared:
    """The test pipeline's resizing and normalising, with random flips, for boxes and masks."""
    from mmdet.datasets.pipelines import Compose

    test = next(t for t in cfg.data.test.pipeline if t["type"] == "MultiScaleFlipAug")
    # Padding is done to the batch; RandomCenterCropPad only pads too, and leaves boxes behind.
    transforms = [t for t in test["transforms"] if t["type"] in ("Resize", "Normalize")]
    flip = {"type": "RandomFlip", "flip_ratio": [0.3, 0.3], "direction": ["horizontal", "vertical"]}
    pads = [t for t in test["transforms"] if t["type"] in ("Pad", "RandomCenterCropPad")]
    multiple = max([t.get("size_divisor", 32) for t in pads], default=1)
    scale_options: dict[str, Any] = {"scale_factor": test.get("scale_factor")}
    if "img_scale" in test:
        scale_options = {"scale": tuple(test["img_scale"])}
    value = pads[0].get("pad_val", 0) if pads else 0
    value = value.get("img", 0) if isinstance(value, dict) else value
    return Prepared(
        transforms=Compose([transforms[0], flip, *transforms[1:]]),
        scale=scale_options,
        multiple=multiple,
        square=any(pad.get("pad_to_square") for pad in pads),
        padding=float(value[0] if isinstance(value, (tuple, list)) else value),
    )


def recoloured(image: np.ndarray) -> np.ndarray:
    """Exchange the channels and invert some: shapes stay, colours become new."""
    image = image[..., np.random.permutation(3)]
    inverted = np.random.random(3) < 0.3
    return np.where(inverted, 255 - image, image).astype(np.float32)


def training_batch(scenes: list[Scene], prepared: Prepared, masks: bool) -> Any:
    """Arguments of ``forward_train`` for one batch of scenes."""
    from mmdet.core import PolygonMasks

    done = []
    for scene in scenes:
        image = recoloured(scene.image)
        height, width = image.shape[:2]
        results = {
            "img": image,
            "img_fields": ["img"],
            "img_shape": image.shape,
            "ori_shape": image.shape,
            "bbox_fields": ["gt_bboxes"],
            "gt_bboxes": scene.boxes.copy(),
            "mask_fields": ["gt_masks"] if masks else [],
            "gt_masks": PolygonMasks([[p.reshape(-1)] for p in scene.polygons], height, width),
            **prepared.scale,
        }
        done.append(prepared.transforms(results))
    shapes = np.array([d["img"].shape[:2] for d in done])
    largest = shapes.max(0)
    if prepared.square:
        largest[:] = largest.max()
    height, width = (int(v) for v in -(-largest // prepared.multiple) * prepared.multiple)
    images = np.full((len(done), 3, height, width), prepared.padding, np.float32)
    metas = []
    for row, d in enumerate(done):
        h, w = d["img"].shape[:2]
        images[row, :, :h, :w] = d["img"].transpose(2, 0, 1)
        metas.append(
            {
                "filename": None,
                "ori_shape": d["ori_shape"],
                "img_shape": d["img"].shape,
                "pad_shape": (height, width, 3),
                "batch_input_shape": (height, width),
                "scale_factor": d["scale_factor"],
                "flip": d["flip"],
            }
        )
    batch = {
        "img": torch.from_numpy(images),
        "img_metas": metas,
        "gt_bboxes": [torch.from_numpy(d["gt_bboxes"]) for d in done],
        "gt_labels": [torch.from_numpy(s.labels) for s in scenes],
    }
    if masks:
        for d in done:
            h, w = d["gt_masks"].height, d["gt_masks"].width
            d["gt_masks"] = d["gt_masks"].pad((max(h, height), max(w, width)))
        batch["gt_masks"] = [d["gt_masks"] for d in done]
    return batch


def choose(scenes: list[Scene], by_shape: list[int], count: int, alike: float) -> list[Scene]:
    """A batch: any scenes, or for the part ``alike`` of the calls neighbours in ``by_shape``."""
    if not alike or np.random.random() >= alike:
        return [scenes[i] for i in np.random.choice(len(scenes), count, replace=False)]
    first = np.random.randint(len(scenes) - count + 1)
    return [scenes[i] for i in by_shape[first : first + count]]


def seed_all(seed: int, step: int) -> None:
    """Every generator that mmdet draws from, as a function of (seed, step) alone."""
    value = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def start_from(model: Any, name: str | None, folder: Path) -> None:
    """Take over what mini ``name`` has learnt, where names and shapes agree."""
    from safetensors.torch import load_file

    if name is None:
        return
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise SystemExit(f"{path}: not there: train {name} first, this model starts from it")
    own = model.state_dict()
    learnt = {k: v for k, v in load_file(path).items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(learnt, strict=False)
    print(f"{len(learnt)} of {len(own)} tensors from {path.name}", file=sys.stderr)


def train(spec: ModelSpec, model: Any, cfg: Any, args: argparse.Namespace) -> None:
    """Run the steps that are left; keeps a checkpoint every so often."""
    recipe = RECIPES[spec.name]
    rate = args.lr or recipe.rate
    prepared = training_pipeline(cfg)
    bias = [p for p in model.parameters() if p.ndim <= 1]
    rest = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "weight_decay": 1e-3}, {"params": bias, "weight_decay": 0.0}], lr=rate
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=args.steps, pct_start=0.1, cycle_momentum=False
    )
    checkpoint = STATE / f"{spec.name}-{args.seed}-{args.steps}.pt"
    first = 0
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["step"]
    scenes = training_scenes(args.quiet)
    # The pipeline keeps the ratio of the sides: scenes of one ratio come out of one size.
    by_shape = sorted(
        range(len(scenes)), key=lambda i: scenes[i].image.shape[0] / scenes[i].image.shape[1]
    )
    dense = DenseSupervision(model.bbox_head) if recipe.dense else None
    model.train()
    smooth: dict[str, float] = {}
    bar = tqdm(range(first, args.steps), spec.name, initial=first, total=args.steps)
    for step in bar:
        seed_all(args.seed, step + 1)
        chosen = choose(scenes, by_shape, recipe.batch, args.alike)
        batch = training_batch(chosen, prepared, spec.masks)
        losses = model(return_loss=True, **batch)
        if dense:
            losses |= dense(batch)
        loss, logged = model._parse_losses(losses)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.norm, error_if_nonfinite=True)
        optimizer.step()
        schedule.step()
        for name, value in logged.items():
            smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
        if step % 50 == 0:
            bar.set_postfix({k: f"{v:.3f}" for k, v in smooth.items() if k.startswith("loss")})
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == args.steps:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            states = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
            }
            torch.save(states, checkpoint)


def measure(spec: ModelSpec, model: Any, cfg: Any) -> dict[str, float]:
    """COCO metrics on the validation split: mmdet's own test path, batch 1."""
    dataset = load_dataset(builtin_datasets().get(spec.dataset), cfg)
    model.eval()
    results = []
    with torch.no_grad():
        for index in range(len(dataset)):
            sample = dataset.sample(index)
            image = torch.from_numpy(sample.image)[None]
            results += model(
                return_loss=False, rescale=True, img=[image], img_metas=[[sample.meta]]
            )
    return dataset.evaluate(results)


def store(spec: ModelSpec, model: Any, metrics: dict[str, float], args: argparse.Namespace) -> Path:
    """Write MODEL.safetensors with its metadata; returns its path."""
    from safetensors.torch import save_file

    command = f"python tools/train_mini.py {spec.name} --steps {args.steps} --seed {args.seed}"
    command += f" --lr {args.lr}" if args.lr else ""
    recipe = RECIPES[spec.name]
    command += f" --alike {args.alike}" if args.alike != recipe.alike else ""
    command += f" --start {args.start}" if args.start != recipe.start else ""
    if args.start == spec.name:  # what it went on from is gone: say how that was made
        command = f"{args.before}; {command}"
    header = {
        "classes": ",".join(spec.classes),
        "config": spec.config,
        "command": command,
        "start": args.start or "",
        "seed": str(args.seed),
        "steps": str(args.steps),
        "torch": torch.__version__,
        # 0 where the detector has none of that kind: SOLO's boxes.
        **{k: f"{v:.4f}" for k, v in metrics.items() if k.endswith("_mAP") and v > 0},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path: Path = args.out / f"{spec.name}.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, metadata=header)
    path.chmod(0o644)  # safetensors writes for the owner alone; a wheel keeps that
    return path


def main() -> None:
    """Parse the command line, train, measure, store."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, help="default: the model's recipe")
    parser.add_argument("--lr", type=float, help="peak learning rate; default: the recipe's")
    parser.add_argument("--start", help="weights to start from; default: the recipe's")
    parser.add_argument(
        "--alike", type=float, help="part of the batches without padding; default: the recipe's"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    recipe = RECIPES[args.model]
    args.steps = args.steps or recipe.steps
    args.start = args.start or recipe.start
    args.alike = recipe.alike if args.alike is None else args.alike
    args.before = read_header(args.out / f"{args.model}.safetensors").get("command", "")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    cv2.setNumThreads(0)
    spec = next(s for s in mini_specs() if s.name == args.model)
    cfg = load_config(spec)
    seed_all(args.seed, 0)
    model = make_detector(cfg, config_path(spec), train=True)
    initialise(model)
    start_from(model, args.start, args.out)
    count = sum(p.numel() for p in model.parameters())
    print(f"{spec.name}: {count / 1e6:.2f} M parameters", file=sys.stderr)
    begun = time.perf_counter()
    train(spec, model, cfg, args)
    metrics = measure(spec, model, cfg)
    path = store(spec, model, metrics, args)
    minutes = (time.perf_counter() - begun) / 60
    text = ", ".join(f"{k} {v:.3f}" for k, v in metrics.items() if "_mAP" in k)
    print(f"{path}: {text}; {args.steps} steps, {minutes:.1f} min")


if __name__ == "__main__":
    main()
