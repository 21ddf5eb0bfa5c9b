"""Does an exported MMDetection 2.x detector still do what PyTorch does?

A pytest plugin and a small library that answer that for every detector, backend, shape mode and
batch size: does it export, does it give the same detections, does it keep the AP, how fast is it;
and where it does not, which stage is to blame. This module stays empty of imports, because pytest
loads it in every run, whether or not the suite was asked for.
"""

__version__ = "0.1.0"
