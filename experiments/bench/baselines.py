"""The benchmark's baselines: vit-pytorch, and the training loop of the AgentViT paper."""

import random
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from vit_patch_env import ImageData


class _AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Images in memory, augmented one by one with torchvision, as is common."""

    def __init__(self, data: ImageData) -> None:
        images = cast("Tensor", data.train.images)  # benchmarks keep them in memory
        self.images = images.permute(0, 2, 3, 1).numpy()
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
        pil_image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        return self.transform(pil_image), self.labels[index]


class VitPytorch:
    """vit-pytorch's SimpleViT in fp32 on all patches, with a DataLoader with two workers.

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
            _AugmentedImages(data), batch_size, shuffle=True, num_workers=2, drop_last=True,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        # One iterator for all measurements: few steps should not include its workers' start.
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
        """Empty, as there is no agent."""
        return {}

    def _train(self, images: Tensor, labels: Tensor) -> float:
        loss = F.cross_entropy(self._logits(images), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def _logits(self, images: Tensor) -> Tensor:
        return self.model(images)  # type: ignore[no-any-return]


class PaperLoop(VitPytorch):
    """The paper's training loop: a boolean mask on the tokens and a DQN in Python, all in fp32.

    At every batch the agent observes the first layer's attention on all patches, selects an
    action and stores the transition; every tenth step it learns from 64 transitions (Table 1).
    The ViT trains on `n_keep` random patches instead of the selected ones, so that their number is
    fixed.
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
        # Learning starts before the measurements, which are those of a running agent.
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


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    """Batches of epochs without end."""
    while True:
        yield from loader
