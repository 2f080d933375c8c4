"""Self-supervised methods: one short file each, on lightly's heads and losses.

The driver asks a method for a loss, and tells it when a step begins and when gradients are there;
what is a method's own (momentum encoders, queues, centres) stays inside it.
"""

from ccrop_pipeline.methods.build import METHODS, build_method, settings_type
from ccrop_pipeline.methods.method import Method, MethodSettings, StepOutput
from ccrop_pipeline.methods.shared import embedding_std

__all__ = [
    "METHODS",
    "Method",
    "MethodSettings",
    "StepOutput",
    "build_method",
    "embedding_std",
    "settings_type",
]
