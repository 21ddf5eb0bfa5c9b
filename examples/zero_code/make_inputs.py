"""Stands for weeks of work: draws ten photographs, and makes weights that find something in them.

python make_inputs.py DIR    writes DIR/photos and DIR/epoch_12.pth
"""

import sys
from pathlib import Path

import cv2
import torch

from pytest_onnxdet.data.scenes import CLASSES, draw_scene
from pytest_onnxdet.models.build import initialise, load_config, make_detector
from pytest_onnxdet.models.spec import ModelSpec

CONFIG = Path(__file__).resolve().parent / "shape_finder.py"
#: Of the head's layers: how far their outputs spread, and what so many of 1,000 are above.
LAYERS = {
    "retina_cls": (1.5, 0.5, 1),
    "retina_reg": (0.3, 0.0, 500),
    "retina_iou": (1.0, 1.0, 500),
}


def draw(photos):
    """Draws the photographs, and gives them as the network sees them: float32 (1, 3, H, W)."""
    from mmdet.datasets.pipelines import Compose

    prepare = Compose(load_config(ModelSpec("ours", str(CONFIG))).data.test.pipeline)
    photos.mkdir(parents=True, exist_ok=True)
    for number in range(10):
        name = f"{number:02}.png"
        cv2.imwrite(str(photos / name), draw_scene(16, number, empty=False).image)
        seen = prepare({"img_info": {"filename": name}, "img_prefix": str(photos)})
        yield seen["img"][0][None]


@torch.no_grad()
def train(images):
    """A detector whose weights are drawn, and scaled so that it is sure of something."""
    torch.manual_seed(0)
    detector = make_detector(load_config(ModelSpec("ours", str(CONFIG))), CONFIG)
    initialise(detector)
    for layer in detector.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over all images
    for image in images:
        detector.train().extract_feat(image)
    maps = [detector.eval().bbox_head(detector.extract_feat(image)) for image in images]
    for kind, (name, (spread, level, above)) in enumerate(LAYERS.items()):
        values = torch.cat([level.flatten() for image in maps for level in image[kind]])
        factor = spread / values.std()
        layer = getattr(detector.bbox_head, name)
        threshold = (values - layer.bias.mean()).quantile(1 - above / 1000) * factor
        layer.weight *= factor
        layer.bias.fill_(level - threshold)
    return detector


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    detector = train(list(draw(folder / "photos")))
    torch.save(
        {"meta": {"CLASSES": CLASSES, "epoch": 12}, "state_dict": detector.state_dict()},
        folder / "epoch_12.pth",
    )
