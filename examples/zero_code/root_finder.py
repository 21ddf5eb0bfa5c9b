_base_ = "shape_finder.py"
model = dict(bbox_head=dict(type="RootHead"))
