"""The config of a RetinaNet of two levels, small enough to export many times, as text."""

CLASSES = ("circle", "square", "triangle")

PIPELINE = """
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale=(128, 96),
        flip=False,
        transforms=[
            dict(type='Resize', keep_ratio=True),
            dict(type='RandomFlip'),
            dict(type='Normalize', mean=[120., 110., 100.], std=[60., 60., 60.], to_rgb=True),
            dict(type='Pad', size_divisor=32),
            dict(type='ImageToTensor', keys=['img']),
            dict(type='Collect', keys=['img']),
        ])
]
"""

TINY = """
model = dict(
    type='RetinaNet',
    backbone=dict(
        type='ResNet', depth=18, base_channels=4, num_stages=2, strides=(1, 2),
        dilations=(1, 1), out_indices=(0, 1), frozen_stages=-1, norm_eval=False),
    neck=dict(type='FPN', in_channels=[4, 8], out_channels=8, num_outs=2),
    bbox_head=dict(
        type='RetinaHead', num_classes=3, in_channels=8, stacked_convs=1, feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
            strides=[4, 8]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=20))
"""
