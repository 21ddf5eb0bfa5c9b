"""What tests of another repository use: a suite for a backend, and a tiny detector to run on it."""

from pytest_onnxdet.testing.backend_suite import BackendTests

__all__ = ["BackendTests"]
