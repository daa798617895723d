"""What a study searches: the values that declare a `Search`, of an agent and of its reward."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple, cast

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.arguments import Argument, Search, declared
from vit_patch_env.checks import ArgumentError, named, shown
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.factory import agent_kind
from vit_patch_env.experiments.agents_by_name.stable_baselines import (
    SEARCHED,
    given_names,
    searched_defaults,
)
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import flat, replaced

SB3 = "sb3."
"""Before the names of values of Stable-Baselines3's algorithms."""


class Dimension(NamedTuple):
    """A value that is searched.

    Attributes:
        name: as in `flat`, such as dqn.tau or alpha; `sb3.` and the name of an algorithm's value.
        start: the value of the options.
        given: whether it was given, or is not the default.
        low: smallest value.
        high: largest value.
        integer: whether it is an integer.
        log: whether it is searched on a logarithmic scale.
        choices: all values, if it is not a number.
    """

    name: str
    start: Any
    given: bool
    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def has_start(self) -> bool:
        """Whether the value of the options is one that can be found."""
        if self.choices or self.start is None:
            return self.start in self.choices
        return bool(self.low <= self.start <= self.high)

    @property
    def searched(self) -> str:
        """The values that are searched, in words."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low:.4g} to {self.high:.4g}{', log' if self.log else ''}"


def searched_dimensions(
    options: TrainOptions,
    env: ViTPatchSelectEnv,
    names: Sequence[str],
    given: Collection[str] = (),
) -> list[Dimension]:
    """The values to search.

    Args:
        options: of the runs, as `resolve_agent` leaves them.
        env: of the runs, for bounds that depend on their sizes.
        names: of the values; empty for all that are not given, those with their defaults.
        given: names of values, as in `flat`, that count as given also with their defaults.

    Raises:
        ArgumentError: for an unknown name, or if nothing is left to search.
    """
    known = {one.name: one for one in _dimensions(options, env, given)}
    wanted = [name.removeprefix("--").replace("-", "_") for name in names]
    for name, typed in zip(wanted, names, strict=True):
        if name not in known:
            raise ArgumentError(
                "search",
                f"must be among {', '.join(known)} for {named('agent')} {options.agent} and "
                f"{named('reward')} {options.env.reward}, got {shown(typed)}",
            )
    chosen = [one for one in known.values() if (one.name in wanted if wanted else not one.given)]
    if not chosen:
        raise ArgumentError(
            "search", f"must name a value, as all are given, got none of {', '.join(known)}"
        )
    return chosen


def with_values(options: TrainOptions, values: Mapping[str, Any]) -> TrainOptions:
    """The options with values of a trial, by the names of their dimensions.

    Raises:
        ArgumentError: for a value that is not valid.
    """
    of_sb3 = {name.removeprefix(SB3): one for name, one in values.items() if name.startswith(SB3)}
    if of_sb3:
        usual = searched_defaults(agent_kind(options.agent).algorithm, options.sb3)
        of_sb3 = {name: one for name, one in of_sb3.items() if one != usual.get(name)}
    kept = tuple(text for text in options.sb3 if text.partition("=")[0] not in of_sb3)
    texts = (*kept, *(f"{name}={value!r}" for name, value in of_sb3.items()))
    changed = replaced(
        options, {name: one for name, one in values.items() if not name.startswith(SB3)}
    )
    return replace(changed, sb3=texts)


def _dimensions(
    options: TrainOptions, env: ViTPatchSelectEnv, given: Collection[str]
) -> Iterator[Dimension]:
    """All values that can be searched with an agent and a reward."""
    values, defaults = flat(options), flat(TrainOptions())
    changed = {name for name, value in values.items() if value != defaults[name]} | set(given)
    kind = agent_kind(options.agent)
    if "sb3" in kind.options:
        texts = given_names(options.sb3)
        for name, start in searched_defaults(kind.algorithm, options.sb3).items():
            yield _number(SB3 + name, SEARCHED[name], env, start, given=name in texts)
    for group in declared(TrainOptions):
        if group.name in kind.options and is_dataclass(group.annotation):
            for one in declared(cast("Any", group.annotation)):
                name = f"{group.name}.{one.name}"
                yield from _dimension(name, one, env, values[name], name in changed)
    for one in declared(EnvConfig):
        if one.search is not None and one.search.reward in (None, options.env.reward):
            start = getattr(env.config, one.name)
            yield from _dimension(one.name, one, env, start, one.name in changed)


def _dimension(
    name: str, argument: Argument, env: ViTPatchSelectEnv, start: Any, given: bool
) -> Iterator[Dimension]:
    """The dimension of an argument, if it is searched."""
    if argument.search is None:
        return
    if argument.choices:
        yield Dimension(name, start, given, choices=argument.choices)
    else:
        integer = argument.is_integer
        yield _number(name, argument.search, env, start, given=given, integer=integer)


def _number(
    name: str,
    search: Search,
    env: ViTPatchSelectEnv,
    start: float | None,
    *,
    given: bool,
    integer: bool = False,
) -> Dimension:
    """The dimension of a number, with bounds for the sizes of a run."""
    whole = {"steps": env.expected_steps, "patches": env.n_patches, None: 1}[search.of]
    low, high = search.low * whole, search.high * whole
    if search.of is not None:
        low, high = max(1, round(low)), max(1, round(high))
    return Dimension(name, start, given, low, high, integer, search.log)
