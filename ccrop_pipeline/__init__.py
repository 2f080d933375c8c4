"""ContrastiveCrop as a pipeline: boxes computed offline, kept in files, cut into views.

Import the part you need, for example ``ccrop_pipeline.boxset`` (NumPy and PyArrow only)
or ``ccrop_pipeline.crops`` (torch). This module imports nothing heavy.
"""

__version__ = "0.1.0"
