"""Whatever their bytes and values, files of weights and runs are taken, or refused by name."""

import hostile_runs
import hostile_weights
import pytest
import torch
from hostile_weights import content, vit
from judging import judged

from ccrop_pipeline.errors import ModelError
from ccrop_pipeline.models import open_encoder, read_own
from ccrop_pipeline.models.weight_files import save_sealed
from ccrop_pipeline.training import load_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("kind", hostile_weights.KINDS)
def test_a_few_weights_of_each_kind_are_taken_or_refused(kind):
    assert set(hostile_weights.verdicts(kind, range(12))) <= {"taken", "refused"}


@pytest.mark.parametrize("kind", hostile_runs.KINDS)
def test_a_few_files_of_runs_are_taken_or_refused(kind):
    assert set(hostile_runs.verdicts(kind, range(12))) <= {"taken", "refused"}


def refused(state, tmp_path):
    """The message that refuses a state dict, which takes neither long nor much memory."""
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"a\.pth") as caught:
        open_encoder(tmp_path / "a.pth")
    assert judged(lambda: open_encoder(tmp_path / "a.pth"), ["a.pth"]) == "refused"
    return str(caught.value)


def first_weight():
    return next(name for name in content()["method"] if name.startswith("backbone."))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("part", ["method", "optimizer"])
def test_a_checkpoint_of_ours_has_dense_tensors_alone(part, tmp_path):
    name = first_weight()
    for odd in (
        content()["method"][name].to_sparse(),
        torch.quantize_per_tensor(content()["method"][name], 0.1, 0, torch.qint8),
    ):
        value = {**content(), part: {**content()[part], name: odd}}
        with (tmp_path / "a.pt").open("w+b") as file:
            save_sealed(value, file)
        for read in (load_checkpoint, open_encoder):
            with pytest.raises(ModelError, match=r"a\.pt is no checkpoint: it has a sparse, quant"):
                read(tmp_path / "a.pt")


def test_weights_of_another_backbone_in_a_checkpoint_of_ours_name_the_file(tmp_path):
    method = {k: v for k, v in content()["method"].items() if k != first_weight()}
    with (tmp_path / "a.pt").open("w+b") as file:
        save_sealed({**content(), "method": method}, file)
    with pytest.raises(ModelError, match=r"in .*a\.pt: the weights .* not those of its backbone"):
        open_encoder(tmp_path / "a.pt")


def test_what_the_recipe_in_a_checkpoint_lacks_has_its_default(tmp_path):
    recipe = {k: v for k, v in content()["recipe"].items() if k not in ("eval_size", "probe")}
    with (tmp_path / "a.pt").open("w+b") as file:
        save_sealed({**content(), "recipe": recipe}, file)
    assert load_checkpoint(tmp_path / "a.pt").recipe.eval_size == 0
    assert read_own(tmp_path / "a.pt")["recipe"]["eval_size"] == 0
    assert open_encoder(tmp_path / "a.pt").input_size == 24  # its image_size


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(1).expand(10**10),
        torch.zeros(1).expand(64, 10**9),
        torch.zeros(3, 3, device="meta"),
    ],
    ids=range(3),
)
def test_values_that_are_not_in_the_file_are_no_weights(odd, tmp_path):
    state = {**vit(), "blocks.0.norm1.weight": odd}
    assert "values are not all in the file" in refused(state, tmp_path)
    assert "values are not all in the file" in refused({"model": state, "x": [odd]}, tmp_path)


def test_no_vit_is_built_that_is_far_larger_than_the_weights(tmp_path):
    deep = {**vit(), "blocks.99999999.norm1.weight": torch.zeros(64)}
    assert "too few for the ViT" in refused(deep, tmp_path)
    wide = {**vit(), "blocks.0.mlp.fc1.weight": torch.zeros(10**7, 0)}
    assert "too few for the ViT" in refused(wide, tmp_path)


def test_shapes_of_no_network_are_one_message(tmp_path):
    for name, odd in {
        "patch_embed.proj.weight": torch.zeros(64, 3),
        "pos_embed": torch.tensor(1.0),
        "blocks.0.mlp.fc1.weight": torch.zeros(()),
        "cls_token": torch.zeros(0),
    }.items():
        assert "no network can be built" in refused({**vit(), name: odd}, tmp_path)


def test_very_long_names_and_shapes_are_shortened(tmp_path):
    long = "x" * 9_999
    for state in (
        {**vit(), long: torch.zeros(1)},
        {long: torch.zeros(1)},
        {"arch": long, "state_dict": {long + str(n): torch.zeros(1) for n in range(3)}},
        {long + str(n): 1 for n in range(99)},
        {**vit(), "blocks.0.norm1.weight": torch.zeros((1,) * 60)},
    ):
        assert len(refused(state, tmp_path)) <= 1_500
