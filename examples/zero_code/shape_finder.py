custom_imports = dict(imports=["ours"], allow_failed_imports=False)
model = dict(
    type="RetinaNet",
    backbone=dict(type="SlimNet"),
    neck=dict(type="FPN", in_channels=[16, 24, 32], out_channels=16, num_outs=3),
    bbox_head=dict(
        type="IouHead",
        num_classes=3,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=1,
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    ),
    test_cfg=dict(
        nms_pre=500,
        min_bbox_size=0,
        score_thr=0.3,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=100,
    ),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="MultiScaleFlipAug",
        img_scale=(256, 160),
        flip=False,
        transforms=[
            dict(type="Resize", keep_ratio=True),
            dict(type="RandomFlip"),
            dict(
                type="Normalize",
                mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375],
                to_rgb=True,
            ),
            dict(type="Pad", size_divisor=32),
            dict(type="ImageToTensor", keys=["img"]),
            dict(type="Collect", keys=["img"]),
        ],
    ),
]
data = dict(
    test=dict(
        type="CocoDataset",
        ann_file="annotations/val.json",
        img_prefix="images/val",
        pipeline=test_pipeline,
    )
)
