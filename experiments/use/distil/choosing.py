"""What is kept of training images: patches of each, or some of the images."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vit_patch_env import Selector
from vit_patch_env.agents.bandit.policies import BanditPolicy
from vit_patch_env.agents.fixed_rules.selector_policy import SelectorPolicy
from vit_patch_env.agents.multi_output_dqn.count_policy import CountMlpPolicy
from vit_patch_env.agents.multi_output_dqn.policies import PatchValuesPolicy
from vit_patch_env.agents.schedule_bandit.policy import SchedulePolicy
from vit_patch_env.checks import ArgumentError, InputError, check_integer
from vit_patch_env.data.images import Images, in_batches
from vit_patch_env.experiments.options.commands import ActionsName
from vit_patch_env.experiments.use.loaded_run import LoadedRun
from vit_patch_env.patches.selection import mask_to_keep, top_k_mask

Advance = Callable[[int], None]
"""Called with a number of images that are done, for the display of progress."""

SamplePatches = Callable[[int, np.random.Generator], NDArray[np.int8]]
"""Maps a number of patches and a generator to a mask (n_patches,)."""


def observations(
    run: LoadedRun, images: Images, advance: Advance = lambda _: None
) -> list[NDArray[np.float32]]:
    """What the run's agent observes of each image by itself, (n_patches,)."""
    found: list[NDArray[np.float32]] = []
    for part in in_batches(images, run.batch_size):
        found.extend(run.observe_each(run.normalize(part.to(run.device))))
        advance(len(part))
    return found


def errors(
    run: LoadedRun,
    images: Images,
    labels: Tensor,
    masks: list[NDArray[np.bool_]],
    advance: Advance = lambda _: None,
) -> NDArray[np.float64]:
    """EL2N of each image under the run's ViT, (n_images,): the L2 norm of its error.

    The error is the vector of probabilities minus the one-hot label (Paul, Ganguli and Dziugaite
    2021, https://arxiv.org/abs/2107.07075, definition 2.3). In [0, sqrt(2)]: unlike the loss it is
    bounded.

    Args:
        run: with the ViT.
        images: (n_images, channels, height, width) uint8.
        labels: (n_images,) int64.
        masks: patches of each image that the ViT computes with, (n_patches,). Images of a batch
            with the same ones are computed together.
        advance: see `Advance`.

    Raises:
        InputError: if the ViT's predictions are not finite.
    """
    found = np.empty(len(images), np.float64)
    first = 0
    for part in in_batches(images, run.batch_size):
        batch = run.normalize(part.to(run.device))
        of_part = np.stack(masks[first : first + len(part)])
        different, which = np.unique(of_part, axis=0, return_inverse=True)
        for index, mask in enumerate(different):
            members = np.flatnonzero(which.reshape(-1) == index)
            keep = None if mask.all() else mask_to_keep(mask).to(run.device)
            of_error = run.logits(batch[torch.from_numpy(members)], keep).cpu().double().softmax(1)
            of_error -= functional.one_hot(labels.cpu()[first + members], of_error.shape[1])
            found[first + members] = of_error.norm(dim=1).numpy()
        first += len(part)
        advance(len(part))
    if not np.isfinite(found).all():
        raise InputError("expected a ViT that predicts numbers, got NaN: the run has diverged")
    return found


class Counted:
    """A selector that says when it has picked.

    Args:
        selector: picks.
        advance: see `Advance`.
    """

    def __init__(self, selector: Selector, advance: Advance) -> None:
        self._selector = selector
        self._advance = advance

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """What the selector picks."""
        picked = self._selector.predict(
            observation, state=state, episode_start=episode_start, deterministic=deterministic
        )
        self._advance(1)
        return picked


def highest(
    scores: NDArray[np.float64], labels: NDArray[np.int64], share: float
) -> NDArray[np.bool_]:
    """The share of each class with the highest scores, at least one image of it: (n_images,) bool.

    Args:
        scores: (n_images,); of equal ones the first are kept.
        labels: (n_images,).
        share: in (0, 1].
    """
    chosen = np.zeros(len(scores), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        n_chosen = max(round(share * len(members)), 1)
        chosen[members[np.argsort(-scores[members], kind="stable")[:n_chosen]]] = True
    return chosen


def selector_of(run: LoadedRun, name: str, actions: ActionsName, n_keep: int | None) -> Selector:
    """A run's agent, picking another number of patches if that is given.

    Args:
        run: with an agent.
        name: of the agent, for the message.
        actions: of the agent.
        n_keep: number of patches to keep; None for the agent's own.

    Raises:
        ArgumentError: for a number out of range, or an agent whose choice does not rank patches.
    """
    agent: Any = run.agent
    if n_keep is None:
        return agent  # type: ignore[no-any-return]
    check_integer(1, run.n_patches, keep=n_keep)
    policy = agent.policy
    if isinstance(policy, SelectorPolicy) and policy.check_n_keep(n_keep) == n_keep:
        policy.n_keep = n_keep
        return agent  # type: ignore[no-any-return]
    if isinstance(policy, CountMlpPolicy | SchedulePolicy):
        return _Sampled(policy.sample_patches, policy.seed, n_keep)
    if isinstance(policy, BanditPolicy):
        by_scores = partial(policy.sample_patches, policy.of_patches.mean().numpy())
        return _Sampled(by_scores, policy.seed, n_keep)
    if isinstance(policy, PatchValuesPolicy):
        return _Preferred(policy, n_keep)
    if actions == "top_k":
        return _TopK(agent, n_keep)
    raise ArgumentError(
        "keep",
        "is for agents that rank or sample patches (paper, branching, counting, bandits, "
        "pretrained, fixed rules but all, schedules, and algorithms with the actions top_k), got "
        f"{name}",
    )


class _Preferred:
    """Keeps the patches whose values, or whose advantages over dropping them, are highest.

    Args:
        policy: that values patches.
        n_keep: number of patches.
    """

    def __init__(self, policy: PatchValuesPolicy, n_keep: int) -> None:
        self._policy = policy
        self._n_keep = n_keep

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int8], Any]:
        """A patch mask (n_patches,), and the state as it was."""
        tensor, _ = self._policy.obs_to_tensor(observation)
        with torch.no_grad():
            values = self._policy.preferences(self._policy.q_net(tensor))
        return top_k_mask(values[0].cpu().numpy(), self._n_keep), state


class _Sampled:
    """Samples patches as a policy does, anew for each image.

    Args:
        sample: maps a number of patches and a generator to a mask (n_patches,).
        seed: of the policy.
        n_keep: number of patches.
    """

    def __init__(self, sample: SamplePatches, seed: int | None, n_keep: int) -> None:
        self._sample = sample
        self._seed = seed or 0
        self._n_keep = n_keep

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int8], Any]:
        """A patch mask (n_patches,), and the number of predictions so far."""
        n_before = 0 if state is None else int(state)
        rng = np.random.default_rng([self._seed, n_before])
        return self._sample(self._n_keep, rng), n_before + 1


class _TopK:
    """Keeps the patches that an agent with the actions `top_k` scores highest.

    Args:
        agent: whose last value of an action is the number of patches.
        n_keep: number of patches instead.
    """

    def __init__(self, agent: Any, n_keep: int) -> None:
        self._agent = agent
        self._n_keep = n_keep

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float64], Any]:
        """Scores and the number as `TopKAction` takes them, and the agent's state."""
        action, state = self._agent.predict(
            observation, state=state, episode_start=episode_start, deterministic=deterministic
        )
        n_patches = len(action) - 1
        number = 2 * (self._n_keep - 1) / max(n_patches - 1, 1) - 1
        return np.append(action[:-1], number).astype(np.float64), state
