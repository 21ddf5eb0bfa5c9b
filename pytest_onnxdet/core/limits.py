"""Numbers of the runtimes that lowerings keep to. Imports nothing."""

#: The maximum of entries that TensorRT's TopK gives.
MAX_TOPK = 3840
