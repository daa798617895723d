"""Runs that are given more epochs or seconds than they began with."""

from typing import NamedTuple

from vit_patch_env.checks import ArgumentError, named
from vit_patch_env.experiments.agents_by_name.factory import agent_kind
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.models import model_class
from vit_patch_env.models.model_names import family_of, is_own

LENGTHS = ("epochs", "seconds")
"""Options that a resumed run may have more of."""


class Extension(NamedTuple):
    """More of the option that is the length of a run.

    Attributes:
        name: of the option.
        before: its value so far.
        after: its new value.
        dependent: what depends on the length of the run, in words.
    """

    name: str
    before: float
    after: float
    dependent: tuple[str, ...]

    def __str__(self) -> str:
        return f"from {self.before} to {self.after} {self.name}"


def extension(saved: TrainOptions, name: str, value: float | None, *, agreed: bool) -> Extension:
    """The extension of a run by another value of an option.

    Args:
        saved: options of the run.
        name: of the option, one of `LENGTHS`.
        value: its new value.
        agreed: whether the user agrees that the course of what depends on the length changes.

    Raises:
        ArgumentError: if the option is not the length of the run, the value is not larger, or
            something depends on it and the user has not agreed.
    """
    before = getattr(saved.env, name)
    is_length = (name == "seconds") == (saved.env.budget == "seconds")
    if not is_length or value is None or value < before:
        expected = f"{before} or more" if is_length else before
        raise ArgumentError(name, f"must be that of the resumed run, {expected}, got {value}")
    dependent = depends_on_length(saved)
    if dependent and not agreed:
        raise ArgumentError(
            name,
            f"must be that of the resumed run, {before}, or {named('extend')} be given, as "
            f"{' and '.join(dependent)} of a longer run would begin in its middle, so that the "
            f"result is not that of a new run, got {value}",
        )
    return Extension(name, before, value, dependent)


def depends_on_length(options: TrainOptions) -> tuple[str, ...]:
    """What of a run depends on its length, in words.

    Without any, a run that is extended takes exactly the course of the longer one.
    """
    env = options.env
    found = {
        f"the schedule {env.schedule}": env.schedule != "constant",
        "the warm-up": env.warmup_epochs > 0,
        f"the observation {env.observation}": env.observation.endswith("+run"),
        # What a user's function makes is not known here.
        f"the model {env.model}": hasattr(model_class(env.model), "train_rate")
        if is_own(env.model)
        else family_of(env.model) is None,
        f"the agent {options.agent}": agent_kind(options.agent).depends_on_length(options),
    }
    return tuple(words for words, depends in found.items() if depends)
