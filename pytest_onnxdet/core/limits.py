"""Numbers of the runtimes that lowerings keep to. Imports nothing."""

#: The most entries that TensorRT's TopK gives.
MOST_TOPK = 3840
