"""How well boxes fit the true boxes of their source: box_quality.py BOXES SOURCE.

Prints one JSON line for each data set that the annotations name.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ccrop_pipeline.boxset import BoxSet
from ccrop_pipeline.images import open_source
from ccrop_pipeline.report import box_quality

if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("boxes", type=Path)
    options.add_argument("source")
    chosen = options.parse_args()
    quality = box_quality(BoxSet.open(chosen.boxes), open_source(chosen.source))
    for name, figures in quality.items():
        print(json.dumps({"source": name, **asdict(figures)}))
