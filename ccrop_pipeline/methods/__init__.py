"""Self-supervised methods: one short file each, on lightly's heads and losses.

The driver only asks a method for a loss and tells it that a step is about to begin.
"""

from ccrop_pipeline.methods.build import METHODS, build_method
from ccrop_pipeline.methods.method import Method, MethodSettings

__all__ = ["METHODS", "Method", "MethodSettings", "build_method"]
