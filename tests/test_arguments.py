"""Arguments that are declared once: check, signature, JSON, command line."""

import inspect
import json
from dataclasses import FrozenInstanceError, field
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Interval
from typing_extensions import Doc

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.arguments import (
    SAME_RUN,
    OrObject,
    arguments,
    declared,
    from_json,
    takes,
    to_json,
)
from vit_patch_env.checks import ArgumentError, from_text
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import flat, replaced, same_run


@arguments
class Inner:
    rate: Annotated[float, Interval(gt=0, le=1), Doc("a rate")] = 0.5


@arguments
class Config:
    n_steps: Annotated[int, Interval(ge=1), Doc("steps")] = 20
    name: Annotated[Literal["a", "b"], OrObject("an object"), Doc("a name")] = "a"
    folder: Annotated[str | None, SAME_RUN, Doc("a folder")] = None
    texts: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)

    def check(self) -> None:
        if self.n_steps == 7:
            raise ArgumentError("n_steps", "must not be 7, got 7")


class Owner:
    @takes(Config)
    def __init__(self, config):
        self.config = config


def test_values_are_checked_and_become_pythons_own():
    assert type(Config(n_steps=np.int64(3)).n_steps) is int
    with pytest.raises(ArgumentError, match=r"n_steps must be in \[1, inf\), got 0"):
        Config(n_steps=0)
    with pytest.raises(ArgumentError, match="name must be one of a, b, got 'c'"):
        Config(name="c")
    with pytest.raises(ArgumentError, match="n_steps must not be 7"):
        Config(n_steps=7)
    with pytest.raises(FrozenInstanceError):
        Config().n_steps = 3


def test_objects_pass_where_they_are_declared():
    thing = object()
    assert Config(name=thing).name is thing
    with pytest.raises(ArgumentError, match="folder must be text or None"):
        Config(folder=thing)


def test_methods_that_take_arguments_have_their_signature():
    assert Owner(n_steps=3, texts=("x",)).config == Config(n_steps=3, texts=("x",))
    signature = inspect.signature(Owner)
    assert list(signature.parameters) == ["n_steps", "name", "folder", "texts", "inner"]
    assert signature.parameters["n_steps"].default == 20
    with pytest.raises(
        TypeError, match="Owner got an unexpected keyword argument 'n_step', did you mean n_steps"
    ):
        Owner(n_step=3)
    with pytest.raises(TypeError, match="positional"):
        Owner(3)


def test_declarations_can_be_read():
    n_steps, name, folder, *_ = declared(Config)
    assert (n_steps.name, n_steps.default, n_steps.doc) == ("n_steps", 20, "steps")
    assert n_steps.expected == "an integer in [1, inf)"
    assert name.expected == "one of a, b or an object"
    assert [one.changes_run for one in (n_steps, folder)] == [True, False]


def test_json_is_read_as_it_was_written():
    config = Config(n_steps=3, texts=("x", "y"), inner=Inner(rate=1))
    assert from_json(Config, json.loads(json.dumps(to_json(config)))) == config
    assert from_json(Config, {}) == Config()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_steps": 0}, r"n_steps must be in \[1, inf\), got 0"),
        ({"n_steps": True}, r"n_steps must be an integer in \[1, inf\), got True"),
        ({"n_steps": 7}, "n_steps must not be 7"),
        ({"steps": 3}, "steps is not known, got 3"),
        ({"inner": {"rate": 0}}, r"inner.rate must be in \(0, 1\], got 0"),
        ({"inner": {"n": 0}}, "inner.n is not known"),
        ({"inner": 3}, "inner must be an object, got 3"),
        ({"texts": ["x", 3]}, "texts must be a list, each text, got 3"),
        ([], "options must be an object"),
    ],
)
def test_json_that_is_not_valid_is_named(values, message):
    with pytest.raises(ArgumentError, match=message):
        from_json(Config, values)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (Annotated[int, Interval(ge=1)], "0", 0),
        (Annotated[float, Interval(ge=1)], "1e-3", 1e-3),
        (int | None, "None", None),
        (str | None, "None", None),
        (str, "None", "None"),
        (bool | None, "True", True),
        (int, "many", "many"),
        (int, "2.0", "2.0"),
        (tuple[int, ...], ("1", "x"), (1, "x")),
        (tuple[float, ...] | None, ("1", "0.5"), (1.0, 0.5)),
        (tuple[float, ...] | None, ("None",), None),
        (tuple[str, ...], ("None",), ("None",)),
        (Literal["a", "b"], "a", "a"),
    ],
)
def test_texts_represent_values(annotation, text, value):
    assert from_text(annotation, text) == value
    assert type(from_text(annotation, text)) is type(value)


def test_every_argument_of_the_environment_is_described():
    for one in declared(EnvConfig):
        assert one.doc
        assert one.doc[-1] != "."
        assert "\n" not in one.doc
        assert one.expected


def test_an_environment_names_an_unknown_argument():
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'image_sise', did you mean image_size"
    ):
        ViTPatchSelectEnv(**TINY, image_sise=32)


def test_options_have_one_level_of_names():
    options = replaced(TrainOptions(), {"epochs": 3, "dqn.tau": 0.5, "seed": 4})
    assert (options.env.epochs, options.dqn.tau, options.seed) == (3, 0.5, 4)
    values = flat(options)
    assert (values["epochs"], values["dqn.tau"], values["seed"]) == (3, 0.5, 4)
    assert "render_mode" not in values
    assert not any(name.startswith("dqn.") for name in flat(options, frozenset()))
    assert {"data_dir", "device", "out", "checkpoint_every"} <= same_run(options)
    assert not {"epochs", "agent", "dqn.tau"} & same_run(options)
