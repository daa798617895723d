"""This package as the benchmark's contender: the training of a ViT with and without an agent."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env import ImageData, ViTPatchSelectEnv
from vit_patch_env.agents import MultiOutputDQN
from vit_patch_env.names import PrecisionName
from vit_patch_env.patches.selection import mask_to_keep


class Contender(Protocol):
    """An implementation of training, at a fixed number of patches per step."""

    def steps(self, n_steps: int) -> None:
        """Train `n_steps` steps on a batch that is ready: forward, backward and update only."""

    def epoch(self, n_steps: int) -> None:
        """Train `n_steps` steps of an epoch, with loading, augmentation, selection and agent."""

    def parts(self) -> dict[str, float]:
        """Seconds of the last epoch by part of the agent's work; empty without an agent."""


class Ours:
    """This package on a fixed number of random patches, without an agent.

    Args:
        data: the images.
        batch_size: images per step.
        device: to train on.
        n_keep: patches per step.
        precision: of matrix products.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        device: torch.device,
        n_keep: int,
        precision: PrecisionName = "auto",
    ) -> None:
        self.env = ViTPatchSelectEnv(
            dataset=data, image_size=data.train.images.shape[-1], batch_size=batch_size,
            epochs=10**6, device=str(device), precision=precision,
        )  # fmt: skip
        self.n_keep = n_keep
        self.rng = np.random.default_rng(0)
        self.env.reset(seed=0)
        self.run = self.env.episode.run

    def steps(self, n_steps: int) -> None:
        """Train on a fixed batch."""
        batch = self.run.batch
        for _ in range(n_steps):
            self.run.trainer.step(batch, self._keep()).item()

    def epoch(self, n_steps: int) -> None:
        """Train on augmented batches, without observations."""
        for _ in range(n_steps):
            self.run.trainer.step(self.run.stream.next(), self._keep()).item()

    def parts(self) -> dict[str, float]:
        """Empty, as there is no agent."""
        return {}

    def _keep(self) -> Tensor | None:
        if self.n_keep == self.env.n_patches:
            return None
        mask = random_patches(self.rng, self.env.n_patches, self.n_keep)
        return mask_to_keep(mask).to(self.env.device, non_blocking=True)


class OursWithAgent(Ours):
    """This package with the paper's agent, whose selected patches are replaced by random ones.

    The agent observes, predicts, stores transitions and learns as usual, but the number of patches
    is fixed.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        device: torch.device,
        n_keep: int,
        precision: PrecisionName = "auto",
    ) -> None:
        super().__init__(data, batch_size, device, n_keep, precision)
        env = _FixedNumber(self.env, n_keep)
        # Learning starts before the measurements, which are those of a running agent.
        self.agent = MultiOutputDQN("MlpPolicy", env, learning_starts=0, seed=0, device="cpu")
        self.agent.learn(10)
        self.run = self.env.episode.run
        self.seconds: dict[str, float] = {}
        self._time(self.run, "observe", "observation")
        self._time(self.agent, "predict", "prediction")
        self._time(self.agent, "_store_transition", "replay")
        self._time(self.agent, "train", "update")

    def epoch(self, n_steps: int) -> None:
        """Train on augmented batches, with the agent."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        trained, started = self.run.stopwatch.seconds["train"], time.perf_counter()
        self.agent.learn(n_steps, reset_num_timesteps=False)
        total = time.perf_counter() - started
        trained = self.run.stopwatch.seconds["train"] - trained
        rest = total - trained - sum(self.seconds.values())
        self.seconds["the rest of the loop"] = rest

    def epoch_alone(self, n_steps: int) -> None:
        """Train on augmented batches, without the agent and its observations."""
        super().epoch(n_steps)

    def parts(self) -> dict[str, float]:
        """Seconds in observation, prediction, replay buffer, update and the rest of SB3's loop."""
        return self.seconds

    def _time(self, owner: Any, method: str, name: str) -> None:
        """Add up the seconds spent in a method; on CUDA those of the host."""
        original: Callable[..., Any] = getattr(owner, method)
        self.seconds[name] = 0.0

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = original(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - started
            return result

        setattr(owner, method, timed)


class _FixedNumber(gym.ActionWrapper[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    def __init__(self, env: ViTPatchSelectEnv, n_keep: int) -> None:
        super().__init__(env)
        self.n_keep = n_keep
        self.rng = np.random.default_rng(0)

    def action(self, action: NDArray[Any]) -> NDArray[Any]:
        return random_patches(self.rng, len(action), self.n_keep)


def random_patches(rng: np.random.Generator, n_patches: int, n_keep: int) -> NDArray[np.bool_]:
    """A random patch mask (n_patches,) with `n_keep` patches."""
    mask = np.zeros(n_patches, dtype=np.bool_)
    mask[rng.choice(n_patches, n_keep, replace=False)] = True
    return mask
