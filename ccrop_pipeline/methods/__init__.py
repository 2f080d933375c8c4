"""Self-supervised methods: one short file each, on lightly's heads and losses.

The driver asks a method for a loss, and tells it when a step begins and when gradients are there.
What is a method's own (momentum encoders, queues, centres) stays inside it; its settings are in
`recipes.method_settings`.
"""

from ccrop_pipeline.methods.build import METHODS, build_method
from ccrop_pipeline.methods.method import Method, StepOutput
from ccrop_pipeline.methods.shared import embedding_std

__all__ = [
    "METHODS",
    "Method",
    "StepOutput",
    "build_method",
    "embedding_std",
]
