"""Metrics of a ViT on the patches that an agent picks through whatever wraps its environment."""

import inspect
import pickle
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Literal, NamedTuple, cast, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from vit_patch_env.arguments import declared
from vit_patch_env.checks import ArgumentError, InputError, check_choice, check_integer, shown
from vit_patch_env.config import EnvConfig
from vit_patch_env.copied_wrappers import Copies, SplitEnv
from vit_patch_env.data.generators import seeded_generators
from vit_patch_env.env import ViTPatchSelectEnv
from vit_patch_env.episode import Episode, Selector, early_end
from vit_patch_env.episode_factory import EpisodeFactory
from vit_patch_env.layers import is_vectorised, layers_below, places
from vit_patch_env.names import SplitName
from vit_patch_env.training.evaluation import Metrics

EpisodeName = Literal["running", "last"]

APPLY = "_vit_patch_apply"
"""Method of the environment that calls a function with it, in whatever process it is."""

_CPU = torch.device("cpu")


def evaluate_agent(
    agent: Selector,
    env: Any,
    split: SplitName,
    *,
    episode: EpisodeName = "running",
    index: int | None = None,
) -> Metrics:
    """Metrics of an episode's ViT on a split, on the patches that an agent picks.

    The agent sees the batches of the split as the steps of one episode, through copies of
    everything between it and the environment: Gymnasium's wrappers, and Stable-Baselines3's
    vectorised environments with theirs. So observations are stacked, actions sampled, and states
    of recurrent agents carried from batch to batch. The generators of the environment and its
    spaces, and the global ones of Python, NumPy and torch (CPU), have the seed 0 meanwhile; a
    generator of a wrapper's own continues in the copy. Running means of Gymnasium and
    Stable-Baselines3 stay as they are. Run features are those of a finished run.

    The evaluation changes neither the environment, the wrappers, the attributes of their classes
    nor the global generators. Other objects that wrappers share with their program, such as
    globals and what functions refer to, are not copied.

    Without wrappers it is `env.unwrapped.evaluate(split, selector=agent)`.

    Args:
        agent: anything with Stable-Baselines3's predict(), which is called deterministically.
        env: the environment, wrapped as the agent is used to it, or a vectorised environment.
        split: `val` for decisions during training, `test` for final metrics, or `train`.
        episode: `running`, or `last`: the one that ended last, with a warning if it ended before
            its budget was used.
        index: which of several environments; not needed for one.

    Raises:
        ValueError: for wrappers that cannot be copied, that fail on a split, or that observe what
            a split does not have: pictures, the time within a run, rewards or losses. The last two
            are NaN, and recognised where an observation has NaN; one that is only compared with
            another number is not recognised.
    """
    check_choice(get_args(SplitName), split=split)
    check_choice(get_args(EpisodeName), episode=episode)
    host = _Host(env, index)
    with (
        seeded_generators([0], 0, _CPU),
        closing(host.show(split, episode)) as split_shown,
        closing(host.around(split_shown)) as player,
    ):
        early = split_shown.early_end()
        if early is not None:
            warnings.warn(early, stacklevel=2)
        started = time.perf_counter()
        try:
            _play(agent, player, split_shown)
        finally:
            split_shown.exclude(time.perf_counter() - started)
        return split_shown.metrics()


def pick_patches(
    agent: Selector, env: Any, values: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.bool_]]:
    """The patch masks (n_patches,) that an agent picks for batches, as `evaluate_agent` lets it.

    Args:
        agent: as for `evaluate_agent`.
        env: the environment in this process, wrapped as the agent is used to it.
        values: the observation of each batch without run features, (n_patches,).

    Raises:
        ValueError: as `evaluate_agent`.
    """
    with (
        seeded_generators([0], 0, _CPU),
        closing(_Shown(env.unwrapped, env, "test", "running", values)) as shown_batches,
    ):
        _play(agent, shown_batches, shown_batches)
        return shown_batches.patch_masks()


class _Shown:
    """A split, shown through copies of an environment's wrappers, in the environment's process.

    Args:
        env: the environment.
        outermost: its outermost wrapper, or itself.
        split: name of the split.
        episode: name of the episode.
        values: observations of batches, in place of those of the split.
    """

    def __init__(
        self,
        env: ViTPatchSelectEnv,
        outermost: Any,
        split: SplitName,
        episode: EpisodeName,
        values: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        self._split = split
        self._episode: Episode = env.last_episode if episode == "last" else env.episode
        self._is_last = episode == "last"
        self._n_calls = 0
        started = time.perf_counter()
        try:
            values = self._episode.observe_split(split) if values is None else values
            views = [self._episode.view(one) for one in values]
            facts = _facts(env)
            self._split_env = SplitEnv(views, values, env.observation_space, facts)
            layers = list(layers_below(outermost))
            self._copies = Copies(layers, self._split_env, list(facts.values()))
        finally:
            self.exclude(time.perf_counter() - started)

    def reset(self) -> Any:
        """The agent's observation of the first batch."""
        with self._running():
            observation, _ = self._copies.outermost.reset(seed=0)
        return observation

    def step(self, action: Any) -> tuple[Any, ...]:
        """The agent's observation of the next batch, and what else a step gives."""
        with self._running():
            return cast("tuple[Any, ...]", self._copies.outermost.step(action))

    def get(self, name: str) -> Any:
        """An attribute of the outermost wrapper that has it."""
        return self._copies.outermost.get_wrapper_attr(name)

    def set(self, name: str, value: Any) -> None:
        """Set an attribute of the wrappers or of what they wrap."""
        self._copies.outermost.set_wrapper_attr(name, value)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The result of a method of the outermost wrapper that has it."""
        with self._running():
            return self.get(name)(*args, **kwargs)

    def n_done(self) -> int:
        """Batches whose patches have been picked."""
        return len(self._split_env.patch_masks)

    def patch_masks(self) -> list[NDArray[np.bool_]]:
        """The patches that have been picked, (n_patches,) of each batch."""
        return self._split_env.patch_masks

    def finished(self) -> bool:
        """Whether all have."""
        return self._split_env.finished

    def early_end(self) -> str | None:
        """That the last episode was ended before its budget was used, if it was asked for."""
        return early_end(self._episode) if self._is_last else None

    def exclude(self, seconds: float) -> None:
        """Exclude seconds from the measured training time."""
        self._episode.exclude_evaluation(seconds)

    def metrics(self) -> Metrics:
        """The metrics on the patches that have been picked."""
        return self._episode.evaluate_masks(self._split, self._split_env.patch_masks)

    def close(self) -> None:
        """Restore what the copies share with the wrappers."""
        self._copies.close()

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Global generators of this process that do not depend on which process it is."""
        self._n_calls += 1
        with seeded_generators([0], self._n_calls, _CPU), self._copies.running():
            yield


def _facts(env: ViTPatchSelectEnv) -> dict[str, Any]:
    """The attributes of an environment that are the same in every run."""
    of_every_run = [
        name
        for name, member in vars(EpisodeFactory).items()
        if isinstance(member, property) and hasattr(ViTPatchSelectEnv, name)
    ]
    arguments = [one.name for one in declared(EnvConfig)]
    derived = ("config", "grid", "n_patches", "device", "precision", "metadata", "spec")
    return {name: getattr(env, name) for name in (*arguments, *derived, *of_every_run)}


class _Remote:
    """A `_Shown` in the process of its environment, with the same methods.

    Args:
        vec_env: whose environments are in other processes.
        index: of the environment.
        split: as for `_Shown`.
        episode: as for `_Shown`.
    """

    def __init__(self, vec_env: Any, index: int, split: SplitName, episode: EpisodeName) -> None:
        self._vec_env = vec_env
        self._index = index
        vec_env.env_is_wrapped(_FindOutermost(), indices=[index])
        self._ask(_Open(split, episode))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._ask(_Call(name, args, kwargs))

    def _ask(self, question: "_Open | _Call") -> Any:
        (answer,) = self._vec_env.env_method(APPLY, _Answering(question), indices=[self._index])
        if isinstance(answer, _Failure):
            raise answer.error from _OtherProcessError(answer.traceback)
        return answer


_OUTERMOST, _SHOWN = "_vit_patch_outermost", "_vit_patch_shown"
"""Attributes of an environment in another process, while a split is shown there."""


class _FindOutermost:
    """Finds the outermost wrapper when a vectorised environment is asked whether it has this one.

    Methods of an environment in another process are called without its wrappers. `env_is_wrapped`
    goes through them from the outside, until one is an instance.
    """

    def __instancecheck__(self, layer: Any) -> bool:
        if isinstance(layer.unwrapped, ViTPatchSelectEnv):
            vars(layer.unwrapped)[_OUTERMOST] = layer
        return True


class _Open(NamedTuple):
    """Show a split."""

    split: SplitName
    episode: EpisodeName

    def answer(self, env: ViTPatchSelectEnv) -> None:
        outermost = vars(env).pop(_OUTERMOST, env)
        vars(env)[_SHOWN] = _Shown(env, outermost, self.split, self.episode)


class _Call(NamedTuple):
    """Call a method of the split that is shown; `close` is the last one."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def answer(self, env: ViTPatchSelectEnv) -> Any:
        result = getattr(vars(env)[_SHOWN], self.name)(*self.args, **self.kwargs)
        if self.name == "close":
            del vars(env)[_SHOWN]
        return result


class _Failure(NamedTuple):
    """Why a question has no answer: an exception would end the process of the environment."""

    error: Exception
    traceback: str


class _OtherProcessError(Exception):
    """The traceback of an error in another process."""


class _Answering(NamedTuple):
    """A function of the environment."""

    question: _Open | _Call

    def __call__(self, env: ViTPatchSelectEnv) -> Any:
        try:
            return self.question.answer(env)
        except Exception as error:
            text = f"\n{traceback.format_exc()}"
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # whatever an exception raises that cannot be copied
                return _Failure(RuntimeError(f"{type(error).__name__}: {error}"), text)
            return _Failure(error, text)


class _Host:
    """Where the environment is: here, or in one place of a vectorised environment.

    Args:
        env: as for `evaluate_agent`.
        index: as for `evaluate_agent`.

    Raises:
        ArgumentError: for another environment or index.
    """

    def __init__(self, env: Any, index: int | None) -> None:
        vectorised = not isinstance(env, gym.Env)
        if vectorised and not (hasattr(env, "env_is_wrapped") and is_vectorised(env)):
            raise ArgumentError(
                "env",
                "must be a Gymnasium environment or a vectorised environment of "
                f"Stable-Baselines3, got {shown(env)}",
            )
        n_envs = env.num_envs if vectorised else 1
        if index is None and n_envs > 1:
            raise ArgumentError("index", f"must be given for {n_envs} environments, got None")
        self._index = 0 if index is None else index
        check_integer(0, n_envs - 1, index=self._index)
        self._vec_layers = [one for one in layers_below(env) if is_vectorised(one)]
        self._vec_env = env
        # The environment with its wrappers, or None in another process.
        self._here = self._in_place() if vectorised else env
        if self._here is None:
            holds = _has_method(env, APPLY)
        else:
            holds = isinstance(self._here.unwrapped, ViTPatchSelectEnv)
        if not holds:
            must = "hold ViTPatchSelectEnv" if vectorised else "be a ViTPatchSelectEnv or wrap one"
            raise ArgumentError("env", f"must {must}, got {shown(env)}")

    def show(self, split: SplitName, episode: EpisodeName) -> "_Shown | _Remote":
        """The split, shown in the process of the environment."""
        if self._here is None:
            return _Remote(self._vec_env, self._index, split, episode)
        return _Shown(self._here.unwrapped, self._here, split, episode)

    def around(self, split_shown: "_Shown | _Remote") -> Any:
        """The split within copies of the vectorised environment's wrappers, if it is one."""
        if not self._vec_layers:
            return split_shown
        from vit_patch_env.split_vec_env import SplitPlace

        return SplitPlace(self._vec_layers, split_shown, self._index)

    def _in_place(self) -> Any:
        envs = places(self._vec_layers[-1])
        return None if envs is None else envs[self._index]


def _has_method(vec_env: Any, name: str) -> bool:
    try:
        return bool(vec_env.has_attr(name))
    except AttributeError:  # of another library, in a wrapper of Stable-Baselines3
        return False


def _play(agent: Selector, player: Any, split_shown: "_Shown | _Remote") -> None:
    """Let an agent pick the patches of every batch.

    Args:
        agent: as for `evaluate_agent`.
        player: the split through all wrappers.
        split_shown: the split that it shows.
    """
    masked = "action_masks" in inspect.signature(agent.predict).parameters
    observation = player.reset()
    n_done = split_shown.n_done()
    if n_done:
        raise InputError(f"wrappers must take steps only for actions, none in reset, got {n_done}")
    state: Any = None
    while not split_shown.finished():
        _check_known(observation)
        keywords = {"action_masks": player.call("action_masks")} if masked else {}
        action, state = agent.predict(observation, state=state, deterministic=True, **keywords)
        observation, *_ = player.step(action)
        before, n_done = n_done, split_shown.n_done()
        if n_done == before:
            raise InputError("wrappers must step the environment in every step, got none")


def _check_known(observation: Any) -> None:
    """Refuse an observation that was made of what a split does not have."""
    parts: Sequence[Any] = [observation]
    if isinstance(observation, dict | tuple):
        parts = list(observation.values() if isinstance(observation, dict) else observation)
    for part in parts:
        array: NDArray[Any] = np.asarray(part)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise InputError(
                "wrappers must not observe rewards or losses, which a split does not have, "
                f"got NaN in the observation {shown(part)}"
            )
