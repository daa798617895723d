"""What the benchmark compares: ways of training the same ViT on the same images."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from vit_patch_env import ImageData, ViTPatchSelectEnv
from vit_patch_env.agents import MultiOutputDQN
from vit_patch_env.names import PrecisionName
from vit_patch_env.patches.selection import mask_to_keep


class Contender(Protocol):
    """One way of training."""

    def steps(self, n_steps: int) -> None:
        """Train `n_steps` steps on a batch that is ready: the optimiser's work alone."""

    def epoch(self, n_steps: int) -> None:
        """Train `n_steps` steps as a whole: loading, augmentation, selection, agent, optimiser."""

    def parts(self) -> dict[str, float]:
        """Seconds of the last epoch that went to parts of the agent's work, by name."""


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Images in memory, augmented one by one with torchvision, as data sets commonly are."""

    def __init__(self, data: ImageData) -> None:
        self.images = data.train.images.permute(0, 2, 3, 1).numpy()
        self.labels = data.train.labels.tolist()
        size = self.images.shape[1]
        self.transform = v2.Compose(
            [
                v2.RandomCrop(size, padding=4),
                *([v2.RandomHorizontalFlip()] if data.flip else []),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(data.channel_mean, data.channel_std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        return self.transform(picture), self.labels[index]


class Peer:
    """vit-pytorch's SimpleViT in fp32 on all patches, with a DataLoader of two workers.

    Args:
        data: the images.
        batch_size: images per step.
        device: to train on.
        n_keep: patches per step: all of them.
    """

    def __init__(self, data: ImageData, batch_size: int, device: torch.device, n_keep: int) -> None:
        torch.manual_seed(0)
        self.n_keep = n_keep
        self.device = device
        self.model = self._make_model(data).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.loader = DataLoader(
            _Pictures(data), batch_size, shuffle=True, num_workers=2, drop_last=True,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        # One iterator for all measurements: its workers' start and stop would weigh too much in a
        # few steps.
        self.batches = _endless(self.loader)
        self.batch = [part.to(device) for part in next(self.batches)]

    def _make_model(self, data: ImageData) -> Any:
        from vit_pytorch import SimpleViT

        return SimpleViT(
            image_size=data.train.images.shape[-1], patch_size=4, num_classes=len(data.classes),
            dim=128, depth=6, heads=16, mlp_dim=512, channels=data.train.images.shape[1],
        )  # fmt: skip

    def steps(self, n_steps: int) -> None:
        """Train on a fixed batch."""
        for _ in range(n_steps):
            self._train(*self.batch)

    def epoch(self, n_steps: int) -> None:
        """Train on loaded and augmented batches."""
        for images, labels in islice(self.batches, n_steps):
            self._train(images.to(self.device), labels.to(self.device))

    def parts(self) -> dict[str, float]:
        """There is no agent."""
        return {}

    def _train(self, images: Tensor, labels: Tensor) -> float:
        loss = F.cross_entropy(self._logits(images), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def _logits(self, images: Tensor) -> Tensor:
        return self.model(images)  # type: ignore[no-any-return]


class PaperWay(Peer):
    """The paper's way: a boolean mask on the token axis and an agent in Python, all in fp32.

    After every batch the agent observes the first layer's attention on all patches, chooses,
    remembers, and learns from 64 remembered steps every tenth step (Table 1). Whatever it
    chooses, `n_keep` random patches are trained on, so that the number is fixed.
    """

    def __init__(self, data: ImageData, batch_size: int, device: torch.device, n_keep: int) -> None:
        super().__init__(data, batch_size, device, n_keep)
        self.n_patches = len(self.model.pos_embedding)
        self.mask = self._random_mask()
        self.q_net, self.target = (
            nn.Sequential(
                nn.Linear(self.n_patches, 1024), nn.ReLU(), nn.Linear(1024, 256), nn.ReLU(),
                nn.Linear(256, self.n_patches),
            ).to(device)
            for _ in range(2)
        )  # fmt: skip
        self.q_optimizer = torch.optim.Adam(self.q_net.parameters(), lr=0.01, eps=0.01)
        self.memory: deque[tuple[Tensor, Tensor, float, Tensor]] = deque(maxlen=1024)
        self.n_agent_steps = 0
        self.previous: tuple[Tensor, Tensor, float] | None = None
        # It learns from the first steps on, so that every measured step is one of a run's middle.
        state = self._observe(self.batch[0]).detach()
        self.memory.extend([(state, self.mask, 0.0, state)] * 64)
        self._learn()

    def epoch(self, n_steps: int) -> None:
        """Train on loaded and augmented batches, with the agent."""
        for images, labels in islice(self.batches, n_steps):
            images, labels = images.to(self.device), labels.to(self.device)
            state = self._observe(images)
            if self.previous is not None:
                self.memory.append((*self.previous, state))
            values = self.q_net(state).detach()
            action = values > values.mean()
            self.mask = self._random_mask()
            loss = self._train(images, labels)
            reward = 1 / loss - 0.8 * abs(int(action.sum()) - self.n_keep) / self.n_keep
            self.previous = state, action, reward
            self.n_agent_steps += 1
            if self.n_agent_steps % 10 == 0:
                self._learn()

    def _learn(self) -> None:
        states, actions, rewards, next_states = zip(*random.sample(self.memory, 64), strict=True)
        with torch.no_grad():
            best = self.target(torch.stack(next_states)).amax(dim=1)
            goal = torch.tensor(rewards, device=self.device) + 0.95 * best
        taken = torch.stack(actions)
        values = self.q_net(torch.stack(states))
        loss = F.huber_loss(values[taken], goal[:, None].expand_as(values)[taken])
        self.q_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.q_optimizer.step()
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.q_net.parameters(), strict=True):
                old.lerp_(new, 0.1)

    @torch.no_grad()
    def _observe(self, images: Tensor) -> Tensor:
        attention = self.model.transformer.layers[0][0]
        return attention(self._embed(images)).mean(dim=(0, 2))  # type: ignore[no-any-return]

    def _embed(self, images: Tensor) -> Tensor:
        return self.model.to_patch_embedding(images) + self.model.pos_embedding  # type: ignore[no-any-return]

    def _logits(self, images: Tensor) -> Tensor:
        tokens = self.model.transformer(self._embed(images)[:, self.mask])
        return self.model.linear_head(tokens.mean(dim=1))  # type: ignore[no-any-return]

    def _random_mask(self) -> Tensor:
        mask = torch.zeros(self.n_patches, dtype=torch.bool, device=self.device)
        mask[torch.randperm(self.n_patches, device=self.device)[: self.n_keep]] = True
        return mask


class Ours:
    """This package, on random patches of a fixed number, without an agent.

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
        """There is no agent."""
        return {}

    def _keep(self) -> Tensor | None:
        if self.n_keep == self.env.n_patches:
            return None
        mask = random_patches(self.rng, self.env.n_patches, self.n_keep)
        return mask_to_keep(mask).to(self.env.device, non_blocking=True)


class OursWithAgent(Ours):
    """This package with the paper's agent; random patches replace those that it chooses.

    The agent observes, predicts, remembers and learns as ever: only the number is fixed.
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
        # It learns from the first steps on, so that every measured step is one of a run's middle.
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
        """Seconds in observation, prediction, replay, update and the rest of SB3's loop."""
        return self.seconds

    def _time(self, owner: Any, method: str, name: str) -> None:
        """Count the seconds spent in a method; on CUDA those of the host."""
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
    """A patch mask (n_patches,) that keeps `n_keep` random patches."""
    mask = np.zeros(n_patches, dtype=np.bool_)
    mask[rng.choice(n_patches, n_keep, replace=False)] = True
    return mask


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of one epoch after the other."""
    while True:
        yield from loader
