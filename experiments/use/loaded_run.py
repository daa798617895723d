"""A run that is loaded to be used: its ViT, its agent, and how images are prepared for them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from gymnasium import Env
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from vit_patch_env import Selector, ViTPatchSelectEnv
from vit_patch_env.agent_evaluation import pick_patches
from vit_patch_env.checks import InputError, check_choice, check_integer
from vit_patch_env.data.batches import Normalize
from vit_patch_env.experiments.options.commands import PatchesName
from vit_patch_env.experiments.use.images import Picture, Preprocessing, as_pictures, in_batches
from vit_patch_env.models.weights.card import WeightsCard
from vit_patch_env.observation import make_observation
from vit_patch_env.patches.selection import mask_to_keep
from vit_patch_env.system.torch_state import own_torch_state


class Predictions(NamedTuple):
    """What a ViT predicts of images, in their order, on the CPU.

    Attributes:
        classes: names of the predicted classes, n_images.
        labels: of these classes, (n_images,) int64.
        probabilities: of all classes, (n_images, n_classes) float32; rows sum to 1.
        logits: that they are the softmax of, (n_images, n_classes) float32.
    """

    classes: list[str]
    labels: Tensor
    probabilities: Tensor
    logits: Tensor


class LoadedRun:
    """A finished run, or the weights of one, ready for predictions: what `load_run` returns.

    Args:
        env: with an episode whose model has the run's weights.
        card: of the weights.
        agent: of the run; None for weights alone.
        agent_env: the environment as the agent is used to it, with its wrappers.
        batch_size: images per batch, as in the run's evaluation.

    Attributes:
        model: the ViT, in evaluation mode: `model(images)` and `model(images, keep)` give logits of
            normalised images. A library's own module is `model.plain_model`.
        classes: class names, by label.
        preprocess: maps an image to the ViT's input: see `Preprocessing`.
        agent: of Stable-Baselines3; None for weights alone.
        card: the model's name, sizes and preprocessing.
        batch_size: images per batch of `predict`.
    """

    def __init__(
        self,
        env: ViTPatchSelectEnv,
        card: WeightsCard,
        *,
        agent: BaseAlgorithm | None,
        agent_env: Env[Any, Any],
        batch_size: int,
    ) -> None:
        self.card = card
        self.classes = card.classes
        self.agent = agent
        self.batch_size = batch_size
        self.preprocess = Preprocessing(card, env.device)
        self.model: nn.Module = env.episode.model.eval()
        self._env = env
        self._agent_env = agent_env

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self._env.device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image."""
        return self._env.grid

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        return self._env.n_patches

    @property
    def observation(self) -> str:
        """What the agent observes, by its name."""
        return self._env.config.observation

    @property
    def normalize(self) -> Normalize:
        """Maps uint8 images to the ViT's input; its `inverse` maps them back."""
        return self.preprocess.normalize

    def observe(self, images: Tensor) -> NDArray[np.float32]:
        """What the agent observes of a batch, without run features: (n_patches,).

        Args:
            images: normalised, (batch, channels, height, width).
        """
        observed = self._env.episode.run.observe(images.to(self.device), self.model)
        values: NDArray[np.float32] = np.nan_to_num(observed.cpu().numpy())
        return values

    def observe_each(self, images: Tensor) -> NDArray[np.float32]:
        """What the agent observes of each image by itself, at once: (batch, n_patches).

        Args:
            images: normalised, (batch, channels, height, width).
        """
        observation = make_observation(self.observation)
        self.model.eval()
        precision = self._env.precision
        with own_torch_state(gradients=False, model=self.model), precision.autocast():
            observed = observation.each(self.model, images.to(self.device))
        values: NDArray[np.float32] = np.nan_to_num(observed.cpu().numpy())
        return values

    def select(self, images: Tensor) -> Tensor | None:
        """The patches that the agent keeps of a batch: (n_keep,) int64, ascending; None for all.

        The agent is that after the run's last step, and picks deterministically, as in
        `evaluate_agent`.

        Args:
            images: normalised, (batch, channels, height, width).

        Raises:
            InputError: for weights without an agent.
        """
        return self._pick([self.observe(images)])[0]

    def predict(
        self,
        images: Picture | Sequence[Picture],
        patches: PatchesName = "all",
        *,
        batch_size: int | None = None,
    ) -> Predictions:
        """Classes and probabilities of images.

        With the run's batch size, test images in their order get the run's test metrics. One
        selection serves a batch, so that the agent's patches depend on it.

        Args:
            images: one or several, each as for `preprocess.pixels`; an array or a tensor of four
                axes is several.
            patches: `all`, or `agent`: those that the agent keeps of each batch.
            batch_size: images per batch; by default that of the run.

        Raises:
            InputError: for an image that cannot be read, or weights without an agent.
        """
        check_choice(get_args(PatchesName), patches=patches)
        batch_size = self.batch_size if batch_size is None else batch_size
        check_integer(1, batch_size=batch_size)
        pictures = as_pictures(images)
        starts = range(0, len(pictures), batch_size)
        kept: Sequence[Tensor | None] = [None] * len(starts)
        if patches == "agent":
            self._check_agent()
            kept = self._pick(
                [self.observe(part) for part in in_batches(pictures, batch_size, self.preprocess)]
            )
        logits = [torch.empty(0, len(self.classes))]
        # Read once more for agents: all images may not fit into memory.
        batches = in_batches(pictures, batch_size, self.preprocess)
        for part, keep in zip(batches, kept, strict=True):
            logits.append(self.logits(part, keep).cpu())
        scores = torch.cat(logits)
        labels = scores.argmax(dim=1)
        names = [self.classes[label] for label in labels.tolist()]
        return Predictions(names, labels, scores.softmax(dim=1), scores)

    def logits(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits (batch, n_classes) float32, in the precision of the run.

        Args:
            images: normalised, (batch, channels, height, width).
            keep: patches to compute with, as `select` returns.
        """
        precision = self._env.precision
        self.model.eval()
        with own_torch_state(gradients=False, model=self.model), precision.autocast():
            logits: Tensor = self.model(images.to(self.device), keep).float()
        return logits

    def masks(
        self, values: list[NDArray[np.float32]], selector: Selector | None = None
    ) -> list[NDArray[np.bool_]]:
        """Patch masks (n_patches,) for batches, picked one after the other as in an evaluation.

        Args:
            values: what `observe` returns of each batch.
            selector: picks in place of the run's agent, which it is made of.

        Raises:
            InputError: for weights without an agent.
        """
        agent: Any = self._check_agent() if selector is None else selector
        return pick_patches(agent, self._agent_env, values) if values else []

    def _pick(self, values: list[NDArray[np.float32]]) -> list[Tensor | None]:
        """The patches that the agent keeps of batches, from the observation of each."""
        masks = self.masks(values)
        return [None if mask.all() else mask_to_keep(mask).to(self.device) for mask in masks]

    def _check_agent(self) -> BaseAlgorithm:
        if self.agent is None:
            raise InputError(
                "expected the folder of a run, whose agent picks patches, got a file of weights, "
                "which has none"
            )
        return self.agent
