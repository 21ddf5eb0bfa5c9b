"""Parts of our own, which register themselves with mmdet when they are imported."""

from . import backbone, heads  # noqa: F401
