"""Heads of our own. What they need for training is left out."""

import torch
from mmdet.models import HEADS, RetinaHead
from torch import nn


@HEADS.register_module()
class IouHead(RetinaHead):
    """Predicts how well each box fits, too, as IoU-aware RetinaNet does (arXiv:1912.05992).

    mmdet multiplies a third output of a dense head into the scores, as it does with the centerness
    of FCOS.
    """

    def _init_layers(self):
        super()._init_layers()
        self.retina_iou = nn.Conv2d(self.feat_channels, self.num_base_priors, 3, padding=1)

    def forward_single(self, x):
        """One level float32 (N, C, h, w) to its logits, deltas and logits of the fit."""
        scores = boxes = x
        for layer in self.cls_convs:
            scores = layer(scores)
        for layer in self.reg_convs:
            boxes = layer(boxes)
        return self.retina_cls(scores), self.retina_reg(boxes), self.retina_iou(boxes)


@HEADS.register_module()
class RootHead(IouHead):
    """Takes the root of the product, which is decoding of its own."""

    def _bbox_post_process(self, scores, labels, boxes, *args, mlvl_score_factors=None, **more):
        pairs = zip(scores, mlvl_score_factors, strict=True)
        roots = [torch.sqrt(score * factor) for score, factor in pairs]
        return super()._bbox_post_process(roots, labels, boxes, *args, **more)
