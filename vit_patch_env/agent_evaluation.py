"""Metrics of a ViT on the patches that an agent picks through whatever wraps its environment."""

import inspect
import time
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from vit_patch_env.checks import ArgumentError, check_choice, check_integer, shown
from vit_patch_env.copied_wrappers import Copied, SplitEnv, copy_wrappers, rebuilt
from vit_patch_env.env import ViTPatchSelectEnv
from vit_patch_env.episode import Episode, Selector, early_end
from vit_patch_env.layers import layers_below
from vit_patch_env.names import SplitName
from vit_patch_env.training.evaluation import Metrics

EpisodeName = Literal["running", "last"]

_FACTS = (
    "n_patches", "batch_size", "epochs", "steps_per_epoch", "budget_steps", "expected_steps",
    "max_steps",
)  # fmt: skip
"""Attributes of the environment that wrappers may read during an evaluation."""


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
    of recurrent agents carried from batch to batch; what samples has the seed 0. Running means stay
    as they are. Run features are those of a finished run. Nothing that is evaluated changes.

    Without wrappers it is `env.unwrapped.evaluate(split, selector=agent)`.

    Args:
        agent: anything with Stable-Baselines3's predict(), which is called deterministically.
        env: the environment, wrapped as the agent is used to it, or a vectorised environment.
        split: `val` for decisions during training, `test` for final metrics, or `train`.
        episode: `running`, or `last`: the one that ended last, with a warning if it ended before
            its budget was used.
        index: which of several environments; not needed for one.

    Raises:
        ValueError: for wrappers that cannot be copied, or that need what a split does not have:
            rewards, losses, pictures or the time within a run.
    """
    check_choice(get_args(SplitName), split=split)
    check_choice(get_args(EpisodeName), episode=episode)
    host = _Host(env, index)
    started = time.perf_counter()
    prepared = host.ask(_Prepare(split, episode))
    if episode == "last" and prepared.early_end is not None:
        warnings.warn(prepared.early_end, stacklevel=2)
    split_env = SplitEnv(
        prepared.views, prepared.values, prepared.observation_space, prepared.facts
    )
    outermost = host.wrap(rebuilt(prepared.wrappers, split_env))
    _play(agent, outermost, split_env)
    seconds = time.perf_counter() - started - prepared.seconds
    return cast("Metrics", host.ask(_Evaluate(split, episode, split_env.patch_masks, seconds)))


class _Refusal(NamedTuple):
    """Why a question has no answer: an exception would end the process of the environment."""

    reason: str


class _Prepared(NamedTuple):
    wrappers: Copied
    views: list[NDArray[np.float32]]
    values: list[NDArray[np.float32]]
    observation_space: gym.Space[Any]
    facts: dict[str, Any]
    early_end: str | None
    seconds: float


class _Prepare(NamedTuple):
    """What an agent would see of a split, and through which wrappers."""

    split: SplitName
    episode: EpisodeName

    def answer(self, env: ViTPatchSelectEnv, outermost: Any) -> _Prepared:
        started = time.perf_counter()
        wrappers = copy_wrappers(list(layers_below(outermost)))
        episode = _episode(env, self.episode)
        values = episode.observe_split(self.split)
        views = [episode.view(one) for one in values]
        facts = {name: getattr(env, name) for name in _FACTS}
        seconds = time.perf_counter() - started
        episode.exclude_evaluation(seconds)
        return _Prepared(
            wrappers, views, values, env.observation_space, facts, early_end(episode), seconds
        )


class _Evaluate(NamedTuple):
    """The metrics on the patches that the agent picked."""

    split: SplitName
    episode: EpisodeName
    patch_masks: list[NDArray[np.bool_]]
    seconds: float

    def answer(self, env: ViTPatchSelectEnv, outermost: Any) -> Metrics:
        episode = _episode(env, self.episode)
        episode.exclude_evaluation(self.seconds)
        return episode.evaluate_masks(self.split, self.patch_masks)


def _episode(env: ViTPatchSelectEnv, name: EpisodeName) -> Episode:
    return env.last_episode if name == "last" else env.episode


class _Asked:
    """A question to an environment in any process, about its outermost wrapper too."""

    def __init__(self, question: _Prepare | _Evaluate) -> None:
        self.question = question

    def __call__(self, env: ViTPatchSelectEnv) -> Any:
        outermost = _outermost.pop(id(env), env)
        try:
            return self.question.answer(env, outermost)
        except Exception as error:
            return _Refusal(str(error).split("\n")[0] or type(error).__name__)


_outermost: dict[int, Any] = {}
"""The outermost wrapper by the environment's id, between finding it and asking."""


class _OutermostMeta(type):
    def __instancecheck__(cls, layer: Any) -> bool:
        # Called with the outermost wrapper first, and then with no other, as this is one.
        _outermost[id(layer.unwrapped)] = layer
        return True


class _Outermost(metaclass=_OutermostMeta):
    """Finds the outermost wrapper when a vectorised environment is asked whether it is wrapped.

    Methods of an environment in another process are called without its wrappers; `env_is_wrapped`
    goes through them.
    """


class _Host:
    """Where the environment is: here, or in one place of a vectorised environment."""

    def __init__(self, env: Any, index: int | None) -> None:
        self.env = env
        self.vectorised = not isinstance(env, gym.Env)
        if not self.vectorised:
            check_choice((None, 0), index=index)
            self.index = 0
            if not isinstance(env.unwrapped, ViTPatchSelectEnv):
                raise ArgumentError(
                    "env", f"must be a ViTPatchSelectEnv or wrap one, got {shown(env)}"
                )
            return
        if not hasattr(env, "env_is_wrapped"):
            raise ArgumentError(
                "env",
                "must be a Gymnasium environment or a vectorised environment of "
                f"Stable-Baselines3, got {shown(env)}",
            )
        if index is None and env.num_envs > 1:
            raise ArgumentError("index", f"must be given for {env.num_envs} environments, got None")
        check_integer(0, env.num_envs - 1, index=index or 0)
        self.index = index or 0

    def ask(self, question: _Prepare | _Evaluate) -> Any:
        """The answer of the environment.

        Raises:
            ValueError: if there is none.
        """
        asked = _Asked(question)
        if self.vectorised:
            self.env.env_is_wrapped(_Outermost, indices=[self.index])
            try:
                (answer,) = self.env.env_method("apply", asked, indices=[self.index])
            except AttributeError as error:
                raise ArgumentError(
                    "env", f"must hold ViTPatchSelectEnv, got {shown(self.env)}"
                ) from error
        else:
            _outermost[id(self.env.unwrapped)] = self.env
            answer = self.env.unwrapped.apply(asked)
        if isinstance(answer, _Refusal):
            raise ValueError(answer.reason)
        return answer

    def wrap(self, env: gym.Env[Any, Any]) -> Any:
        """An environment within copies of the vectorised environment's wrappers, if it is one."""
        if not self.vectorised:
            return env
        from vit_patch_env.split_vec_env import SplitVecEnv

        layers = [layer for layer in layers_below(self.env) if hasattr(layer, "step_wait")]
        base = SplitVecEnv(env, self.env.num_envs, self.index)
        return _Place(rebuilt(copy_wrappers(layers), base), self.index)


class _Place:
    """One place of a vectorised environment, with Gymnasium's interface."""

    def __init__(self, vec_env: Any, index: int) -> None:
        self.vec_env = vec_env
        self.index = index

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        return self._own(self.vec_env.reset()), {}

    def step(self, action: Any) -> tuple[Any, ...]:
        observations, *results = self.vec_env.step(np.stack([action] * self.vec_env.num_envs))
        return self._own(observations), *results

    def has_wrapper_attr(self, name: str) -> bool:
        return bool(self.vec_env.get_attr(name))

    def get_wrapper_attr(self, name: str) -> Any:
        return self.vec_env.get_attr(name, indices=[self.index])[0]

    def _own(self, observations: Any) -> Any:
        if isinstance(observations, dict):
            return {key: value[self.index] for key, value in observations.items()}
        if isinstance(observations, tuple):
            return tuple(value[self.index] for value in observations)
        return observations[self.index]


def _play(agent: Selector, env: Any, split_env: SplitEnv) -> None:
    """Let an agent pick the patches of every batch."""
    masked = "action_masks" in inspect.signature(agent.predict).parameters
    observation, _ = _through(env.reset, seed=0)
    _check_advance("none in reset", split_env, 0)
    state: Any = None
    while not split_env.finished:
        n_before = len(split_env.patch_masks)
        _check_known(observation)
        keywords = {"action_masks": env.get_wrapper_attr("action_masks")()} if masked else {}
        action, state = agent.predict(observation, state=state, deterministic=True, **keywords)
        observation, *_ = _through(env.step, action)
        if len(split_env.patch_masks) == n_before:
            raise ValueError("wrappers must step the environment in every step, got none")


def _through(function: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of copied wrappers.

    Raises:
        ValueError: whatever they raise, in one line.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            "expected wrappers that a split can be shown through, "
            f"got {type(error).__name__}: {reason}"
        ) from error


def _check_advance(expected: str, split_env: SplitEnv, n_done: int) -> None:
    if len(split_env.patch_masks) != n_done:
        raise ValueError(
            f"wrappers must take steps only for actions, {expected}, "
            f"got {len(split_env.patch_masks)}"
        )


def _check_known(observation: Any) -> None:
    """Refuse an observation that was made of what a split does not have."""
    parts: Sequence[Any] = [observation]
    if isinstance(observation, dict | tuple):
        parts = list(observation.values() if isinstance(observation, dict) else observation)
    for part in parts:
        array = np.asarray(part)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ValueError(
                "wrappers must not observe rewards or losses, which a split does not have, "
                f"got NaN in the observation {shown(part)}"
            )
