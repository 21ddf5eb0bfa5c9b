"""Checks: what must hold of an exported graph, and what says so when it does not."""
