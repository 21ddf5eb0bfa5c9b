"""Detectors under test: specs, the registry, the documented zoo, the minis, building."""
