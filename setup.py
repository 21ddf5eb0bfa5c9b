"""Lists the packages; everything else about the distribution is in pyproject.toml.

pyproject.toml can either name every package or search for them, and `pytest_onnxdet.conformance`,
which lives outside the package's folder, can only be named. So the search is here.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["pytest_onnxdet*"]), "pytest_onnxdet.conformance"])
