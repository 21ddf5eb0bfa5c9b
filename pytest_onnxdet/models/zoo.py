"""The twelve documented full-size detectors, as data.

Checkpoints and AP come from the ``metafile.yml`` beside each config in MMDetection 2.28.2
(COCO val2017, AP in percent there, on the 0-1 scale here).
"""

from __future__ import annotations

from .spec import ModelSpec

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
        "cornernet/cornernet_hourglass104_mstest_8x6_210e_coco.py",
        "cornernet/cornernet_hourglass104_mstest_8x6_210e_coco/"
        "cornernet_hourglass104_mstest_8x6_210e_coco_20200825_150618-79b44c30.pth",
        0.412,
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
