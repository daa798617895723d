"""The card of a file of weights: read with bounds, and used to train from the file."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from tests.weighted_vits import Library, randomised
from vit_patch_env import load_run
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.models.weights.card import KEY, WeightsCard, read_card
from vit_patch_env.models.weights.positions import with_positions_for

CARD = {
    "model": "simple_vit", "image_size": [32, 48], "patch_size": 8, "channels": 1,
    "classes": ["a", "\u202eb"], "mean": [0.5], "std": [0.0], "resize": "crop",
    "interpolation": "bilinear",
}  # fmt: skip


def written(path, text):
    save_file({"a": torch.zeros(1)}, path, {KEY: text} if text is not None else None)
    return path


def test_a_card_is_read_as_it_was_written(tmp_path):
    card = read_card(written(tmp_path / "w", json.dumps(CARD)))
    assert card == WeightsCard(
        **{name: tuple(one) if isinstance(one, list) else one for name, one in CARD.items()}
    )
    assert (card.grid, card.n_patches) == ((4, 6), 24)
    save_file({"a": torch.zeros(1)}, tmp_path / "again", card.metadata())
    assert read_card(tmp_path / "again") == card


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no JSON", "expected a card of weights in .*, got: Expecting value"),
        ("[1]", "got: .*must be an object"),
        (json.dumps(CARD | {"patch_size": 5}), "image_size must be divisible by patch_size"),
        (json.dumps(CARD | {"mean": [0.5, 0.5]}), "mean must be 1 number, one per channel, got 2"),
        (json.dumps(CARD | {"std": [-1]}), r"std must be a list, each a number in \[0, inf\)"),
        (json.dumps(CARD | {"std": [float("inf")]}), "std must be a list"),
        (json.dumps(CARD | {"classes": []}), "classes must be names, got none"),
        (json.dumps(CARD | {"classes": "ab"}), "classes must be a list"),
        (json.dumps(CARD | {"model": None}), "model must be text, got None"),
        (json.dumps(CARD | {"code": "rm"}), "code is not known, got 'rm'"),
        (json.dumps(CARD | {"image_size": [32, 10**6]}), r"integer in \[1, 16384\], got 1000000"),
        (json.dumps(CARD | {"model_config": [1]}), r"model_config must be .*, got \[1\]"),
        (json.dumps(CARD | {"dim": 10**400}), "got: an integer of 401 digits"),
        ("[" * 200 + "]" * 200, "nested more than 64 deep"),
    ],
)
def test_a_damaged_card_is_one_line(text, said, tmp_path):
    with pytest.raises(InputError, match=said) as error:
        read_card(written(tmp_path / "w", text))
    assert "\n" not in str(error.value)


def test_names_that_are_not_utf_8_are_read_as_they_were_written(tmp_path):
    names = ("a", os.fsdecode(b"b\xff"))
    config = {"id2label": {"0": names[1]}}
    values = {name: tuple(one) if isinstance(one, list) else one for name, one in CARD.items()}
    card = WeightsCard(**values | {"classes": names, "model_config": config})
    save_file({"a": torch.zeros(1)}, tmp_path / "w", card.metadata())
    assert read_card(tmp_path / "w") == card


OWN = CARD | {"dim": 16, "depth": 1, "heads": 1, "dim_head": 8, "mlp_dim": 8}
HUGGING_FACE = {
    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": 10**9}, "expected a ViT of these sizes to fit into .* GB"),
        ({"dim": 15}, "dim must be divisible by 4, got 15"),
        ({"keep_rate": 0.5}, "keep_rate belongs to .*, got model simple_vit"),
    ],
)
def test_sizes_that_no_vit_has_are_one_line_with_the_file(change, said, tmp_path):
    assert_refused(tmp_path / "w", OWN | change, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 10**7}, r"num_hidden_layers must be in \[1, 1000\], got 10000000"),
        ({"hidden_size": 10**12}, r"hidden_size must be in \[1, 10\^9\], got 1000000000000"),
        ({"hidden_size": "x"}, "hidden_size must be an integer in .*, got 'x'"),
        ({"intermediate_size": 10**9}, "expected the weights of hf:x to fit into .* GB"),
        ({"num_attention_heads": 10**6}, "model hf:x must take .*, got: "),
        ({"model_type": "dinov2", "mlp_ratio": 10**9}, "expected the weights of hf:x to fit into"),
        (
            {"model_type": "dinov2_with_registers", "num_register_tokens": 10**10},
            r"num_register_tokens must be in \[0, 10\^9\]",
        ),
        ({"model_type": "llama"}, "model hf:x cannot drop patches: .*, got 'llama'"),
        ({"model_type": None}, "model hf:x cannot drop patches: .*, got None"),
        ({"hidden_act": "no"}, "model hf:x must take .*, got: 'no'"),
        ({"num_labels": 10**12}, None),
    ],
)
def test_a_configuration_that_no_vit_has_is_one_line_with_the_file(change, said, tmp_path):
    pytest.importorskip("transformers")
    card = CARD | {"image_size": [32, 32], "model": "hf:x", "model_config": HUGGING_FACE | change}
    if said is None:  # the number of classes is the card's
        with pytest.raises(InputError, match="expected the ViT's weights in"):
            load_run(written(tmp_path / "w", json.dumps(card)))
        return
    assert_refused(tmp_path / "w", card, said)


def assert_refused(path, card, said):
    said = rf"^expected a model that the card of {path} describes, got: {said}"
    with pytest.raises(InputError, match=said) as error:
        load_run(written(path, json.dumps(card)))
    assert "\n" not in str(error.value)
    assert "hf:/" not in str(error.value)


def test_files_without_a_card_have_none(tmp_path):
    assert read_card(written(tmp_path / "w", None)) is None
    torch.save({"a": torch.zeros(1)}, tmp_path / "w")
    assert read_card(tmp_path / "w") is None
    (tmp_path / "w").write_bytes(b"\xff" * 100)
    assert read_card(tmp_path / "w") is None
    (tmp_path / "w").write_bytes(b"")
    assert read_card(tmp_path / "w") is None
    os.mkfifo(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(InputError, match="got: a named pipe"):
        read_card(tmp_path / "pipe")


def test_positions_keep_their_place_in_the_image():
    """A ramp along the columns is one again, and prefix tokens stay."""
    ramp = torch.linspace(0, 1, 8).expand(2, 8).flatten()[None, :, None]
    state = {"pos_embed": torch.cat((torch.full((1, 1, 1), 7.0), ramp), dim=1)}
    made = with_positions_for(state, (2, 8), (4, 4))["pos_embed"]
    assert made.shape == (1, 17, 1)
    assert made[0, 0] == 7
    rows = made[0, 1:, 0].view(4, 4)
    assert torch.allclose(rows, rows[:1].expand(4, 4), atol=1e-6)
    assert rows[0].diff().gt(0.15).all()


def test_positions_between_squares_are_left_to_libraries():
    state = {"pos_embed": torch.randn(1, 17, 4)}
    assert with_positions_for(state, (4, 4), (8, 8)) == state
    assert with_positions_for(state, (2, 8), (2, 8)) == state


@pytest.mark.long
@pytest.mark.parametrize("family", ["timm", "hf"])
def test_weights_of_images_that_are_not_square_are_resampled(family, tmp_path, monkeypatch):
    library = Library(family, tmp_path, monkeypatch)
    wide = library.env(image_size=(32, 128))
    wide.reset(seed=0)
    model = wide.episode.model
    state = randomised(model.plain_model).state_dict()
    name = next(one for one in state if one.endswith(("pos_embed", "position_embeddings")))
    file = tmp_path / "wide.safetensors"
    save_file(
        {key: one.contiguous() for key, one in state.items()}, file,
        wide.weights_card(model).metadata(),
    )  # fmt: skip
    # As many patches, of which the library would not know that they were in another place.
    square = library.env(image_size=64, weights=str(file))
    square.reset(seed=0)
    made = square.episode.model.plain_model.state_dict()[name]
    expected = with_positions_for({name: state[name]}, (2, 8), (4, 4))[name]
    assert torch.allclose(made, expected, atol=1e-6)
    assert not torch.allclose(made, state[name], atol=1e-3)
    assert square.config.mean == pytest.approx(wide.weights_card(model).mean)


def test_a_damaged_card_of_weights_to_start_from_is_one_line(tmp_path, monkeypatch):
    library = Library("timm", tmp_path, monkeypatch)
    with pytest.raises((ArgumentError, InputError), match="expected a card of weights in"):
        library.env(weights=str(written(tmp_path / "w", "{}")))
