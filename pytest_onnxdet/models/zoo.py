"""The twelve documented full-size detectors, as data.

Checkpoints and AP come from the ``metafile.yml`` beside each config in MMDetection 2.28.2
(COCO val2017, AP in percent there, on the 0-1 scale here).
"""

from __future__ import annotations

from pytest_onnxdet.models.spec import ModelSpec

SOURCE = "metafile.yml of MMDetection 2.28.2, COCO val2017"

COCO_CLASSES = tuple(
    """person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant
stop sign|parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack
umbrella|handbag|tie|suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat|baseball glove
skateboard|surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon|bowl|banana|apple
sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed
dining table|toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink
refrigerator|book|clock|vase|scissors|teddy bear|hair drier|toothbrush""".replace("\n", "|").split(
        "|"
    )
)

_ROOT = "https://download.openmmlab.com/mmdetection/v2.0/"

# name: (config, checkpoint below _ROOT, bbox AP, segm AP or None)
ZOO: dict[str, tuple[str, str, float, float | None]] = {
    # The same model as fcos_r50_caffe_fpn_gn-head_1x_coco, which is what the metafile lists.
    "fcos": (
        "fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco.py",
        "fcos/fcos_r50_caffe_fpn_gn-head_1x_coco/fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth",
        0.366,
        None,
    ),
    "fsaf": (
        "fsaf/fsaf_r50_fpn_1x_coco.py",
        "fsaf/fsaf_r50_fpn_1x_coco/fsaf_r50_fpn_1x_coco-94ccc51f.pth",
        0.374,
        None,
    ),
    "retinanet": (
        "retinanet/retinanet_r50_fpn_1x_coco.py",
        "retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth",
        0.365,
        None,
    ),
    "ssd": (
        "ssd/ssd300_coco.py",
        "ssd/ssd300_coco/ssd300_coco_20210803_015428-d231a06e.pth",
        0.255,
        None,
    ),
    "yolov3": (
        "yolo/yolov3_d53_mstrain-608_273e_coco.py",
        "yolo/yolov3_d53_mstrain-608_273e_coco/"
        "yolov3_d53_mstrain-608_273e_coco_20210518_115020-a2c3acb8.pth",
        0.337,
        None,
    ),
    "faster_rcnn": (
        "faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py",
        "faster_rcnn/faster_rcnn_r50_fpn_1x_coco/faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
        0.374,
        None,
    ),
    "cascade_rcnn": (
        "cascade_rcnn/cascade_rcnn_r50_fpn_1x_coco.py",
        "cascade_rcnn/cascade_rcnn_r50_fpn_1x_coco/"
        "cascade_rcnn_r50_fpn_1x_coco_20200316-3dc56deb.pth",
        0.403,
        None,
    ),
    "mask_rcnn": (
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py",
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth",
        0.382,
        0.347,
    ),
    "cascade_mask_rcnn": (
        "cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.py",
        "cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco/"
        "cascade_mask_rcnn_r50_fpn_1x_coco_20200203-9d4dcb24.pth",
        0.412,
        0.359,
    ),
    "cornernet": (
        # The metafile's 41.2 is with a flipped copy of each image, which is not part of one
        # graph; the tutorial's PyTorch figure, 40.6, is without.
        "cornernet/cornernet_hourglass104_mstest_10x5_210e_coco.py",
        "cornernet/cornernet_hourglass104_mstest_10x5_210e_coco/"
        "cornernet_hourglass104_mstest_10x5_210e_coco_20200824_185720-5fefbf1c.pth",
        0.406,
        None,
    ),
    "detr": (
        "detr/detr_r50_8x2_150e_coco.py",
        "detr/detr_r50_8x2_150e_coco/detr_r50_8x2_150e_coco_20201130_194835-2c4b8974.pth",
        0.401,
        None,
    ),
    "point_rend": (
        "point_rend/point_rend_r50_caffe_fpn_mstrain_1x_coco.py",
        "point_rend/point_rend_r50_caffe_fpn_mstrain_1x_coco/"
        "point_rend_r50_caffe_fpn_mstrain_1x_coco-1bcb5fb4.pth",
        0.384,
        0.363,
    ),
}

TUTORIAL = "docs/en/tutorials/pytorch2onnx.md of MMDetection 2.x, Results and Models"

# What the tutorial's table says of each: AP in percent by PyTorch, ONNX Runtime and TensorRT; None
# where it has no figure. Of FSAF, SSD and YOLOv3 it tested older checkpoints than those above.
DOCUMENTED: dict[str, dict[str, tuple[float, float | None, float | None]]] = {
    "fcos": {"bbox": (36.6, 36.5, 36.3)},
    "fsaf": {"bbox": (36.0, 36.0, 35.9)},
    "retinanet": {"bbox": (36.5, 36.4, 36.3)},
    "ssd": {"bbox": (25.6, 25.6, 25.6)},
    "yolov3": {"bbox": (33.5, 33.5, 33.5)},
    "faster_rcnn": {"bbox": (37.4, 37.4, 37.0)},
    "cascade_rcnn": {"bbox": (40.3, 40.3, 40.1)},
    "mask_rcnn": {"bbox": (38.2, 38.1, 37.7), "segm": (34.7, 33.7, 33.3)},
    "cascade_mask_rcnn": {"bbox": (41.2, 41.2, 40.9), "segm": (35.9, 34.8, 34.5)},
    "cornernet": {"bbox": (40.6, 40.4, None)},
    "detr": {"bbox": (40.1, 40.1, None)},
    "point_rend": {"bbox": (38.4, 38.4, None), "segm": (36.3, 35.2, None)},
}


def zoo_specs() -> tuple[ModelSpec, ...]:
    """The documented detectors, profile "full", data set "coco_val2017"."""
    return tuple(
        ModelSpec(
            name=name,
            config=config,
            profile="full",
            weights=_ROOT + checkpoint,
            dataset="coco_val2017",
            classes=COCO_CLASSES,
            masks=segm is not None,
            expected_ap={"bbox": bbox} if segm is None else {"bbox": bbox, "segm": segm},
        )
        for name, (config, checkpoint, bbox, segm) in ZOO.items()
    )
