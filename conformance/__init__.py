"""The suite that ``pytest --onnxdet`` runs: one file per check, one test per file.

Invariant: an exported detector, run by a backend, does what the unmodified detector does in
PyTorch. The axes, because each has broken it: model (every head decodes differently), backend,
shape (static graphs bake sizes, dynamic ones must not), batch (a batch must equal its images one
by one).
"""
