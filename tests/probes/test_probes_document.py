import re
from pathlib import Path

import pytest
import torch
from made_probes import packed

from ccrop_pipeline.images import Scenes
from ccrop_pipeline.localize import build_backbone
from ccrop_pipeline.recipes import load_recipe
from ccrop_pipeline.training import Checkpoint
from ccrop_pipeline.training.checkpoint import save_checkpoint

TEXT = (Path(__file__).parents[2] / "docs" / "probes.md").read_text()


@pytest.mark.slow
def test_the_program_of_the_document_runs(tmp_path, monkeypatch, capsys):
    samples = list(Scenes(150, size=32).read("train-000000"))
    for name, part in (("photos", samples[:120]), ("test", samples[120:])):
        images = [sample.image for sample in part]
        packed(tmp_path / "data" / name, images, [sample.label for sample in part])
    torch.manual_seed(0)
    state = build_backbone("small").state_dict()
    online = {f"backbone.{name}": value for name, value in state.items()}
    checkpoint = Checkpoint(1, load_recipe("demo"), online, {})
    save_checkpoint(tmp_path / "runs" / "first" / "checkpoint.pt", checkpoint)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    exec(program, {})
    linear, knn = capsys.readouterr().out.splitlines()
    assert linear.startswith("LinearResult(accuracy=")
    assert float(knn) == pytest.approx(0.5, abs=0.5)
