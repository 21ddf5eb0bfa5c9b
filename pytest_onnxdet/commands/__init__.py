"""``onnxdet export`` and ``onnxdet test``: MMDetection's two tools over this library."""
