"""Files of weights: what is read, and what is refused in one line."""

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.config import EnvConfig
from vit_patch_env.models.weights import files
from vit_patch_env.models.weights.files import read_weights

STATE = {"norm.weight": torch.arange(3.0), "head.bias": torch.ones(2)}


class Own:
    """No plain data."""


@pytest.mark.parametrize(
    "saved",
    [
        STATE,
        {"model": STATE, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        {"state_dict": {"module._orig_mod.head.bias": torch.zeros(2)}, "state_dict_ema": STATE},
        {"state_dict": {f"module.{name}": one for name, one in STATE.items()}},
        {f"plain_model.{name}": one for name, one in STATE.items()},
    ],
    ids=["plain", "checkpoint", "average", "parallel", "wrapped"],
)
def test_weights_of_torch_save_are_read(tmp_path, saved):
    torch.save(saved, tmp_path / "w.pt")
    torch.testing.assert_close(read_weights(tmp_path / "w.pt"), STATE)


def test_safetensors_are_read_whatever_their_name(tmp_path):
    save_file(STATE, tmp_path / "weights.bin")
    torch.testing.assert_close(read_weights(tmp_path / "weights.bin"), STATE)


def _torch(value):
    return lambda path: torch.save(value, path)


def _damaged(n_bytes):
    def write(path):
        save_file(STATE, path)
        path.write_bytes(path.read_bytes()[:n_bytes])

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: os.mkfifo(path), "a named pipe"),
        (lambda path: path.write_bytes(b""), "another file or a damaged one"),
        (lambda path: path.write_text("not weights at all"), "another file or a damaged one"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 99), "not a zip file"),
        (_damaged(20), "a damaged file"),
        (_damaged(-1), "a damaged file"),
        (
            lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
            "before torch 1.6",
        ),
        (_torch(Own()), "something else"),
        (_torch([1, 2]), "no weights by name"),
        (_torch({}), "no weights by name"),
        (_torch({"head": torch.ones(2), "epoch": 3}), "'epoch', which is of type int"),
        (_torch({"head": torch.tensor([1.0, torch.nan])}), "NaN or infinity in head"),
    ],
)
def test_other_files_are_one_line(tmp_path, write, message):
    path = tmp_path / "weights"
    write(path)
    with pytest.raises(InputError, match=message) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_larger_than_the_memory_is_not_read(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "w.pt")
    monkeypatch.setattr(files, "memory_limit", lambda: 1000)
    with pytest.raises(InputError, match=r"more than the 1 kB"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": True}, "pretrained is for models of timm, torchvision, hf"),
        ({"pretrained": True, "weights": "w.pt"}, "weights must not be given with pretrained"),
        ({"new_head": True}, "new_head is for pretrained or weights, got neither"),
        ({"weights": ""}, "weights must be a path or None, got ''"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        EnvConfig(**arguments)


def test_a_module_s_weights_are_replaced_by_the_file_s(tmp_path):
    torch.save({"foreign": torch.ones(1)}, tmp_path / "w.pt")

    def make(n_classes, channels):
        from vit_patch_env.models.simple_vit import SimpleViT

        return SimpleViT(n_classes=n_classes, channels=channels, dim=16, depth=1)

    arguments = {"dataset": "synthetic", "model": make, "device": "cpu", "batch_size": 8}
    env = ViTPatchSelectEnv(weights=str(tmp_path / "w.pt"), **arguments)
    with pytest.raises(ArgumentError, match=r"without .*, and with foreign, which it"):
        env.reset()
    torch.save(make(4, 3).state_dict(), tmp_path / "w.pt")
    saved = torch.load(tmp_path / "w.pt")
    env = ViTPatchSelectEnv(weights=str(tmp_path / "w.pt"), **arguments)
    env.reset(seed=1)
    for name, weight in env.episode.model.state_dict().items():
        assert torch.equal(weight, saved[name])
