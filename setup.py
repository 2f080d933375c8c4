"""Finds the packages, so that no new folder is forgotten; all else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

# pyproject.toml can either find packages or list them, and `cli` is installed under another name.
found = find_namespace_packages(include=["ccrop_pipeline*"], exclude=["*__pycache__"])
setup(packages=["ccrop_cli", *found])
