"""ViTPatchSelect-v0: a Vision Transformer's training run behind the Gymnasium API."""

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, get_args

import gymnasium as gym
import numpy as np
import torch
from annotated_types import Interval
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_patch_env.checks import InnerShare, Share, check, check_choice, check_integer, shown
from vit_patch_env.data.batches import Batch, BatchStream, Normalize
from vit_patch_env.data.datasets import (
    DatasetName,
    ImageData,
    SplitName,
    check_dataset,
    load_dataset,
)
from vit_patch_env.episode import N_SHOWN, Episode, RewardSettings
from vit_patch_env.models import ModelName, check_model, make_model
from vit_patch_env.observation import FIGURES_AFTER_RUN, OBSERVATIONS, ObservationName
from vit_patch_env.patches.grid import patches_per_side
from vit_patch_env.patches.selection import check_patch_mask, mask_to_keep
from vit_patch_env.rendering import draw_selection
from vit_patch_env.reward import REWARDS, RewardName
from vit_patch_env.system.files import load_state, save_state
from vit_patch_env.system.memory import check_fits, release_freed_memory
from vit_patch_env.training.budget import BUDGETS, Budget, BudgetName, uncountable
from vit_patch_env.training.flops import FlopCount
from vit_patch_env.training.trainer import (
    Metrics,
    OptimizerName,
    PrecisionName,
    ScheduleName,
    Trainer,
    resolve_device,
    resolve_precision,
)

_IMPORTED_BY = os.getpid()

EpisodeName = Literal["current", "last"]


class Selector(Protocol):
    """Anything with Stable-Baselines3's predict()."""

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Patch masks for one or many observations, and the next hidden state."""


class Timings(NamedTuple):
    """Where an episode's time went, in seconds."""

    train_seconds: float
    observe_seconds: float
    reset_seconds: float
    aside_seconds: float  # counting FLOPs, checkpoints: what no training needs


def _as_plain(argument: Any) -> str | int | float | None:
    """An argument as a file may hold it; an object by the name of its class."""
    if isinstance(argument, np.generic):
        argument = argument.item()
    return argument if isinstance(argument, str | int | float | None) else type(argument).__name__


class ViTPatchSelectEnv(gym.Env[NDArray[np.float32], NDArray[Any]]):
    """Train a Vision Transformer while choosing, batch by batch, the patches it trains on.

    ## Description
    One episode is one training run of a ViT from fresh weights, one step is one batch. Before
    each batch the agent sees how the ViT's first layer attends to it, and picks the patches to
    train on. It is rewarded for a low loss at few patches. After AgentViT (Cauteruccio et al.
    2024).

    ## Observation space
    `Box((n_patches,), float32)`. `observation="attention_output"`: the first attention layer's
    output for the next batch, (batch, n_patches, dim), averaged over dim and over the batch
    (paper, section 2.2). `"attention_received"`: the attention that each patch receives, in
    [0, 1]. All patches are seen, before any selection. `"none"`: zeros, for rules that do not look.
    With `+run` at the name's end, such as `"attention_output+run"`, three numbers follow, so that
    the shape is (n_patches + 3,): the share of the budget used, the running training loss over the
    first loss, and the running share of patches selected.

    ## Action space
    `MultiBinary(n_patches)`: 1 = train on this patch. One mask serves the whole batch. Where no
    patch is selected, the one with the highest observation is kept.

    ## Reward
    `reward="paper"`:
    `alpha * L(0) / L(t) - (1 - alpha) * |n_selected - n_patches_desired| / n_patches_desired`
    (equation 2.3; the ratio of losses is at most 1,000). Without a desired number the second term
    is `-n_selected / n_patches`. `"validation"`: the decrease of the loss on held-out training
    images since it was last measured, every `reward_every` steps and at the end; 0 between.
    `"progress"`: relative decrease of the loss against its running mean, per FLOP. `"aic"`:
    `-(loss + n_selected / n_patches)`. More about each in `vit_patch_env/reward.py`.

    ## Episode end
    Truncated when the budget is used; schedules follow the share that is. `budget="epochs"`:
    `epochs` passes over the training images. `"flops"`: what `epochs` passes on all patches
    cost a SimpleViT of these sizes, so that fewer patches per step buy more steps; observations
    and rewards are paid from it too. `"seconds"`: so much wall-clock time since the first step,
    with the agent's own and without evaluations; it is not the same on every replay. Terminated
    if the loss is not finite, with a reward of -100. A step whose gradient is not finite, while its
    loss is, changes no weights; ten of them in turn end the run as well.

    ## Info
    `loss`, `n_selected`, `reward_loss`, `reward_patch` (the terms of equation 2.3, whichever the
    reward), `epoch` (of this batch, from 0), `progress` (share of the budget used),
    `empty_action`, `skipped`, `diverged`. It holds no times but the share of a budget of seconds,
    so that it is the same on every replay without one. That of `reset` has `budget_steps`, the
    steps on all patches that the budget is worth.

    ## Saving
    `env.unwrapped.save(path)` writes all that the run's further course depends on, `load(path)`
    goes on from there, in another process too, as if nothing had happened in between.

    ## Arguments
    All keyword-only; through `gym.make` they are JSON values. `dataset` and `model` also take
    objects, when the class is used directly.

    Args:
        dataset: `digits`, `cifar10`, `cifar100`, `fashion_mnist`, `folder`, `synthetic`, or an
            `ImageData`.
        data_dir: the image folder of `folder`; for the others where downloads are kept.
        train_fraction: share of the training images to use, in (0, 1].
        val_fraction: share of those split off for validation, in (0, 1).
        skip_corrupt: leave out images of `folder` that cannot be read, and name them in a warning,
            instead of refusing all.
        image_size: height and width that images are resized to, in pixels.
        patch_size: height and width of a patch, in pixels; must divide image_size.
        dim: token size, divisible by 4.
        depth: transformer layers.
        heads: attention heads per layer.
        dim_head: size of a head.
        mlp_dim: hidden size of a layer's MLP.
        model: `simple_vit` (the paper's), `vit`, or one that reduces its tokens by itself:
            `ats_vit`, `evit`, `tome`, `patch_merger`, `patch_dropout`, `token_expansion`. Or a
            function that makes another, given (n_classes, channels); it must have `n_patches`,
            `model(images, keep=None)` and `model.first_attention(images)`.
        keep_rate: share of tokens that such a model keeps, in (0, 1]; by default as published.
        batch_size: images per training step.
        epochs: passes over the training images per episode, or what they cost.
        budget: `epochs`, `flops` or `seconds`: what ends an episode.
        seconds: how many of them, where they are the budget.
        learning_rate: peak rate of the optimiser.
        optimizer: `adam` (the paper's) or `adamw`.
        weight_decay: of the optimiser.
        schedule: `constant` (the paper's) or `cosine`.
        warmup_epochs: epochs of linear warm-up, or their share of the budget.
        label_smoothing: of the training loss, in [0, 1).
        crop_padding: pixels of padding for random crops; 0 for none.
        flip: mirror half of the images; by default where the data set allows it.
        observation: `attention_output` (the paper's), `attention_received` or `none`, or one of
            them with `+run`.
        reward: `paper`, `validation`, `progress` or `aic`.
        reward_every: steps between measurements of the held-out loss, for `validation`.
        reward_images: held-out images that it is measured on, the first of the validation split.
        n_patches_desired: patches that the reward asks for, in 1...n_patches, or None for as
            few as possible.
        alpha: weight of the loss against the number of patches, in [0, 1].
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:<n>`.
        precision: `auto` (bf16 where the hardware has it), `fp32` or `bf16`.
        render_mode: `rgb_array` or None.

    Raises:
        ValueError: for a value outside its range, naming what was expected and what came.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        *,
        dataset: DatasetName | ImageData = "digits",
        data_dir: str | None = None,
        train_fraction: float = 1.0,
        val_fraction: float = 0.1,
        skip_corrupt: bool = False,
        image_size: int = 32,
        patch_size: int = 4,
        dim: int = 128,
        depth: int = 6,
        heads: int = 16,
        dim_head: int = 64,
        mlp_dim: int = 512,
        model: ModelName | Callable[[int, int], nn.Module] = "simple_vit",
        keep_rate: float | None = None,
        batch_size: int = 64,
        epochs: int = 20,
        budget: BudgetName = "epochs",
        seconds: float | None = None,
        learning_rate: float = 1e-3,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        schedule: ScheduleName = "constant",
        warmup_epochs: int = 0,
        label_smoothing: float = 0.0,
        crop_padding: int = 4,
        flip: bool | None = None,
        observation: ObservationName = "attention_output",
        reward: RewardName = "paper",
        reward_every: int = 50,
        reward_images: int = 512,
        n_patches_desired: int | None = 40,
        alpha: float = 0.2,
        device: str = "auto",
        precision: PrecisionName = "auto",
        render_mode: str | None = None,
    ) -> None:
        self._arguments = {
            name: _as_plain(value)
            for name, value in locals().items()
            if name not in ("self", "data_dir", "device", "render_mode")
        }
        if not isinstance(data_dir, str | None):
            raise ValueError(f"data_dir must be text or None, got {shown(data_dir)}")
        if isinstance(dataset, str):
            check_dataset(dataset, data_dir)
        elif not isinstance(dataset, ImageData):
            raise ValueError(f"dataset must be a name or an ImageData, got {shown(dataset)}")
        check_integer(1, 16384, image_size=image_size)
        check_integer(1, patch_size=patch_size)
        self.n_patches = patches_per_side(image_size, patch_size) ** 2
        check_integer(1, 1000, depth=depth)
        check_integer(1, dim=dim, heads=heads, dim_head=dim_head)
        check_integer(1, mlp_dim=mlp_dim, batch_size=batch_size, epochs=epochs)
        if dim % 4:
            raise ValueError(f"dim must be divisible by 4, got {dim}")
        if isinstance(model, str):
            check_model(model, keep_rate)
        elif not callable(model):
            raise ValueError(f"model must be a name or a function, got {shown(model)}")
        elif keep_rate is not None:
            raise ValueError(f"keep_rate must be None where model is a function, got {keep_rate}")
        check(Share, train_fraction=train_fraction)
        check(InnerShare, val_fraction=val_fraction)
        check_choice((False, True), skip_corrupt=skip_corrupt)
        check(Annotated[float, Interval(gt=0)], learning_rate=learning_rate)
        check(Annotated[float, Interval(ge=0)], weight_decay=weight_decay)
        check_integer(0, image_size, crop_padding=crop_padding)
        check_choice((None, True, False), flip=flip)
        check_integer(0, epochs, warmup_epochs=warmup_epochs)
        check(Annotated[float, Interval(ge=0, lt=1)], label_smoothing=label_smoothing)
        if n_patches_desired is not None:
            check_integer(1, self.n_patches, n_patches_desired=n_patches_desired)
        check(Annotated[float, Interval(ge=0, le=1)], alpha=alpha)
        check_choice(tuple(BUDGETS), budget=budget)
        if (budget == "seconds") != (seconds is not None):
            raise ValueError(
                "seconds must be given where budget is seconds, and only there, "
                f"got budget {budget} and seconds {seconds}"
            )
        if seconds is not None:
            check(Annotated[float, Interval(gt=0)], seconds=seconds)
        check_choice(tuple(REWARDS), reward=reward)
        check_integer(1, reward_every=reward_every, reward_images=reward_images)
        check_choice(get_args(OptimizerName), optimizer=optimizer)
        check_choice(get_args(ScheduleName), schedule=schedule)
        check_choice(tuple(OBSERVATIONS), observation=observation)
        check_choice((None, *self.metadata["render_modes"]), render_mode=render_mode)
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        if isinstance(model, str):
            inner = heads * dim_head
            n_weights = depth * dim * (4 * inner + 2 * mlp_dim) + dim * patch_size**2
            n_values = self.n_patches * (2 * dim + 4 * inner + mlp_dim)
            # Weight, gradient and two moments of the optimiser; one image's values in one layer.
            check_fits(16 * n_weights + 4 * n_values, "a ViT of these sizes", self.device)

        self.n_patches_desired = n_patches_desired
        self.alpha = alpha
        self.epochs = epochs
        self.render_mode = render_mode
        self._dataset = dataset
        self._dataset_options: dict[str, Any] = {
            "data_dir": data_dir, "image_size": image_size,
            "train_fraction": train_fraction, "val_fraction": val_fraction,
            "skip_corrupt": skip_corrupt,
        }  # fmt: skip
        self._model = model
        self._keep_rate = keep_rate
        self._vit_options = {
            "image_size": image_size, "patch_size": patch_size, "dim": dim, "depth": depth,
            "heads": heads, "dim_head": dim_head, "mlp_dim": mlp_dim,
        }  # fmt: skip
        self._recipe: dict[str, Any] = {
            "learning_rate": learning_rate, "optimizer": optimizer, "weight_decay": weight_decay,
            "schedule": schedule, "label_smoothing": label_smoothing,
        }  # fmt: skip
        self._warmup = warmup_epochs / epochs
        self._budget = budget
        self._seconds = seconds
        self._reward = RewardSettings(reward, n_patches_desired, alpha, reward_every)
        self._reward_images = reward_images
        self.batch_size = batch_size
        self._crop_padding = crop_padding
        self._flip = flip
        self._observation = OBSERVATIONS[observation]

        self.observation_space = self._observation.space(self.n_patches)
        self.action_space = spaces.MultiBinary(self.n_patches)
        # Loaded at first use, so that making and pickling an environment is cheap.
        self._data: ImageData | None = None
        self._reference: FlopCount | None = None
        self._reference_flops: dict[int | None, int] = {}
        self._flops_of: dict[Any, int] = {}  # what steps cost, for all episodes
        self._episodes: dict[EpisodeName, Episode] = {}

    @property
    def data(self) -> ImageData:
        """The images and labels, on the training device; loaded at first use."""
        if self._data is None:
            data = self._dataset
            if isinstance(data, str):
                data = load_dataset(data, **self._dataset_options)
            n_images, channels, *size = data.train.images.shape
            image_size = self._vit_options["image_size"]
            if size != [image_size, image_size]:
                raise ValueError(
                    f"image_size must be that of the dataset, {size}, got {image_size}"
                )
            check_integer(1, n_images, batch_size=self.batch_size)
            if self._reward.name == "validation" and not len(data.val.images):
                raise ValueError("reward validation needs validation images, got 0 of them")
            if isinstance(self._model, str):  # what a ViT refuses is said before any training
                with torch.random.fork_rng(devices=[]), torch.device("meta"):
                    self._make_model(len(data.classes), channels)
            self._data = data.to(self.device)
        return self._data

    @property
    def steps_per_epoch(self) -> int:
        """Training batches, and so environment steps, per epoch."""
        return len(self.data.train.images) // self.batch_size

    @property
    def n_steps_done(self) -> int:
        """Steps of the running episode so far."""
        return self._episode("current").trainer.n_steps_done

    @property
    def n_steps(self) -> int:
        """Steps per episode; under a budget of FLOPs those with `n_patches_desired` patches.

        Under a budget of seconds, which tells nobody beforehand, those of `epochs` passes.
        """
        n_steps = self.epochs * self.steps_per_epoch
        if self._budget != "flops" or self.n_patches_desired is None:
            return n_steps
        return round(n_steps * self._step_flops(None) / self._step_flops(self.n_patches_desired))

    @property
    def max_steps(self) -> int:
        """Steps that no episode goes beyond: what to let an algorithm learn for."""
        n_steps = self.epochs * self.steps_per_epoch
        if self._budget == "flops":
            return math.ceil(n_steps * self._step_flops(None) / self._step_flops(1))
        return n_steps if self._budget == "epochs" else sys.maxsize

    def patch_mask(self, episode: EpisodeName = "current") -> NDArray[np.bool_]:
        """(n_patches,), what the last step of an episode trained on; all before its first."""
        shown = self._episode(episode).shown
        return np.ones(self.n_patches, dtype=np.bool_) if shown is None else shown[1].copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a training run with new weights, data order and augmentation.

        All of them come from `np_random`: the same seed gives the same run.

        Raises:
            ValueError: for a seed that is not an integer from 0, or any options.
        """
        if seed is not None:
            check_integer(0, seed=seed)
            seed = int(seed)
        if not isinstance(options, dict | None) or options:
            raise ValueError(f"options must be none, as none is known, got {shown(options)}")
        super().reset(seed=seed)
        weights_seed, stream_seed = self.np_random.integers(2**63, size=2).tolist()
        episode = self._episodes["current"] = self._new_episode(weights_seed, stream_seed)
        trainer = episode.trainer
        info = {"epoch": 0, "progress": trainer.progress, "budget_steps": trainer.n_steps}
        return self._seen(episode), info

    def _new_episode(self, weights_seed: int, stream_seed: int) -> Episode:
        """A training run from fresh weights."""
        if os.getpid() != _IMPORTED_BY:
            # A forked process, such as a worker of Gymnasium's AsyncVectorEnv, inherits OpenMP's
            # state but not its threads: its first parallel operation would wait for them forever.
            torch.set_num_threads(1)
        started = time.perf_counter()
        data = self.data
        stream = BatchStream(
            *data.train,
            Normalize(data.channel_mean, data.channel_std, self.device),
            batch_size=self.batch_size,
            seed=stream_seed,
            crop_padding=self._crop_padding,
            flip=data.flip if self._flip is None else self._flip,
        )
        trainer = Trainer(
            self._new_model(weights_seed),
            stream,
            observation=self._observation.function,
            n_steps=self.epochs * self.steps_per_epoch,
            budget=self._new_budget(),
            flops_of=self._flops_of,
            warmup=self._warmup,
            device=self.device,
            dtype=self.dtype,
            **self._recipe,
        )
        if self._budget == "flops" or self._reward.name == "progress":
            trainer.check_flops()
        held_out = self._held_out(stream.normalize) if self._reward.name == "validation" else []
        episode = Episode(trainer, self._reward, held_out)
        episode.reset_seconds = time.perf_counter() - started
        return episode

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Train on the selected patches of the next batch.

        Args:
            action: (n_patches,), 1 = train on this patch.

        Raises:
            ValueError: for another shape or values other than 0 and 1.
        """
        episode = self._episode("current")
        patch_mask, empty_action = self._patch_mask(action, episode.observation)
        epoch = episode.trainer.n_steps_done // self.steps_per_epoch
        outcome = episode.step(patch_mask, self._keep(patch_mask))
        loss, reward, terms, skipped, diverged = outcome
        truncated = not diverged and episode.trainer.progress >= 1
        if diverged or truncated:
            self._episodes["last"] = episode
        info = {
            "loss": loss,
            "n_selected": int(patch_mask.sum()),
            "reward_loss": terms.loss,
            "reward_patch": terms.patch,
            "epoch": epoch,
            "progress": episode.trainer.progress,
            "empty_action": empty_action,
            "skipped": skipped,
            "diverged": diverged,
        }
        return self._seen(episode), reward, diverged, truncated, info

    def evaluate(
        self,
        split: SplitName,
        *,
        selector: Selector | None = None,
        episode: EpisodeName = "current",
    ) -> Metrics:
        """Figures of the ViT on a split: loss, accuracy, and macro precision, recall and F1.

        Args:
            split: `val` for choices made while training, `test` for final figures, or `train`.
            selector: anything with Stable-Baselines3's predict(), asked deterministically for
                the patches of each batch; by default all patches are used. Where it sees the
                run's figures, they are those of a run that is over: 1, 0, 1.
            episode: `current`, or `last` for the one that ended last: vectorised environments
                reset themselves at an episode's end, and then hold a new, untrained ViT.

        Raises:
            ValueError: for an unknown split, or an episode that there is not.
        """
        check_choice(get_args(SplitName), split=split)
        chosen = self._episode(episode)
        trainer = chosen.trainer
        state: Any = None

        def select(images: Tensor) -> Tensor | None:
            nonlocal state
            assert selector is not None
            # After a divergence there is no finite view, and policies refuse another.
            observation = np.nan_to_num(trainer.observe(images).cpu().numpy())
            seen = self._seen(chosen, observation)
            action, state = selector.predict(seen, state=state, deterministic=True)
            return self._keep(self._patch_mask(action, observation)[0])

        return trainer.evaluate(getattr(self.data, split), None if selector is None else select)

    def trainer(self, episode: EpisodeName = "current") -> Trainer:
        """The trainer of an episode, and with it the ViT (`trainer.model`).

        Raises:
            ValueError: if there is no such episode.
        """
        return self._episode(episode).trainer

    def timings(self, episode: EpisodeName = "current") -> Timings:
        """Where the time of an episode went so far."""
        chosen = self._episode(episode)
        trainer = chosen.trainer
        return Timings(
            trainer.train_seconds,
            trainer.observe_seconds,
            chosen.reset_seconds,
            trainer.aside_seconds,
        )

    def flops(self, episode: EpisodeName = "current") -> float:
        """FLOPs of an episode's steps, observations and rewards, the agent's networks apart."""
        return self._episode(episode).trainer.count_flops()

    def render(self) -> NDArray[np.uint8] | None:
        """Eight images of the last trained batch, dropped patches dimmed: (height, width, 3)."""
        if self.render_mode is None:
            return None
        episode = self._episode("current")
        images, patch_mask = episode.shown or (
            episode.trainer.batch.images,
            np.ones(self.n_patches, dtype=np.bool_),
        )
        images = episode.trainer.stream.normalize.inverse(images[:N_SHOWN])
        return draw_selection(images.cpu().numpy(), patch_mask)

    def close(self) -> None:
        """Free images, models and episodes; a later `reset` loads the images anew."""
        self._episodes.clear()
        self._data = self._reference = None
        release_freed_memory(self.device)

    def exclude_time(self, seconds: float) -> None:
        """Exclude time, such as that of a checkpoint, from the measured training time."""
        self._episode("current").trainer.set_aside(seconds)

    def save(self, path: str | Path) -> None:
        """Write the running episode, the one that ended last and the random generators to a file.

        Raises:
            ValueError: before the first reset.
            OSError: if it cannot be written; what the file held is kept.
        """
        save_state(Path(path), self.state_dict())

    def load(self, path: str | Path) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Go on where `save` was called, in an environment of the same arguments.

        Arguments that may differ: `data_dir`, `device`, `render_mode`. On one machine and device,
        with as many threads, every step is the same as if there had been no break. Nothing in the
        file is executed.

        Returns:
            The observation of the next batch, and the info of a reset.

        Raises:
            ValueError: if the file is damaged, or of an environment with other arguments or images.
        """
        self.load_state_dict(load_state(Path(path)))
        episode = self._episode("current")
        trainer = episode.trainer
        info = {
            "epoch": trainer.n_steps_done // self.steps_per_epoch,
            "progress": trainer.progress,
            "budget_steps": trainer.n_steps,
        }
        return self._seen(episode), info

    def state_dict(self) -> dict[str, Any]:
        """What `save` writes, as plain data and tensors; the tensors are the run's own, not copies.

        Raises:
            ValueError: before the first reset.
        """
        current, last = self._episode("current"), self._episodes.get("last")
        return {
            "arguments": self._arguments,
            "images": self.images_figures(),
            "np_random": self.np_random.bit_generator.state,
            "np_random_seed": self._np_random_seed,
            "action_space": self.action_space.np_random.bit_generator.state,
            "current": current.state_dict(),
            "last": "current" if last is current else last and last.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called.

        Raises:
            ValueError: if it is of an environment with other arguments or images, or damaged.
        """
        try:
            own = {**self._arguments, **self.images_figures()}
            for name, value in {**state["arguments"], **state["images"]}.items():
                if own.get(name) != value:
                    of = " images" if name in get_args(SplitName) else ""
                    raise ValueError(
                        f"{name}{of} must be that of the saved run, {value}, got {own.get(name)}"
                    )
            current = self._loaded_episode(state["current"])
            last = state["last"]
            if last is not None:
                last = current if last == "current" else self._loaded_episode(last)
            self.np_random.bit_generator.state = state["np_random"]
            self._np_random_seed = state["np_random_seed"]
            self.action_space.np_random.bit_generator.state = state["action_space"]
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(f"expected the state of a run with this ViT, got: {reason}") from error
        self._episodes = {"current": current}
        if last is not None:
            self._episodes["last"] = last

    def _loaded_episode(self, state: dict[str, Any]) -> Episode:
        episode = self._new_episode(0, 0)
        episode.load_state_dict(state)
        return episode

    def images_figures(self) -> dict[str, Any]:
        """What tells other images from these: plain data."""
        data = self.data
        return {
            **{name: len(getattr(data, name).labels) for name in get_args(SplitName)},
            "classes": list(data.classes),
            "channel_mean": [round(value, 6) for value in data.channel_mean],
        }

    def _episode(self, name: EpisodeName) -> Episode:
        check_choice(get_args(EpisodeName), episode=name)
        if name not in self._episodes:
            raise ValueError(
                "expected a reset before this call, got none"
                if name == "current"
                else "expected an episode that has ended, got none"
            )
        return self._episodes[name]

    def _seen(
        self, episode: Episode, observation: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """What the agent sees of an episode: of its next batch, or of another."""
        values = episode.observation if observation is None else observation
        if not self._observation.with_run:
            return values.copy()
        figures = episode.run_figures if observation is None else FIGURES_AFTER_RUN
        return np.concatenate((values, figures))

    def _patch_mask(
        self, action: NDArray[Any], observation: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], bool]:
        """The patches to keep, never none of them, and whether the action was empty."""
        patch_mask = check_patch_mask(action, self.n_patches)
        empty = not patch_mask.any()
        if empty:
            patch_mask[observation.argmax()] = True
        return patch_mask, empty

    def _keep(self, patch_mask: NDArray[np.bool_]) -> Tensor | None:
        """Indices of the kept patches, on the device; None where all are kept."""
        if patch_mask.all():
            return None
        return mask_to_keep(patch_mask).to(self.device, non_blocking=True)

    def _held_out(self, normalize: Normalize) -> list[Batch]:
        """The validation images that the reward is measured on, normalised, in batches."""
        images, labels = self.data.val
        batches = zip(
            torch.split(images[: self._reward_images], self.batch_size),
            torch.split(labels[: self._reward_images], self.batch_size),
            strict=True,
        )
        return [Batch(normalize(images), labels) for images, labels in batches]

    def _new_budget(self) -> Budget:
        """What the coming episode may use."""
        n_steps = self.epochs * self.steps_per_epoch
        if self._seconds is not None:
            return Budget("seconds", self._seconds)
        if self._budget == "flops":
            return Budget("flops", n_steps * self._step_flops(None))
        return Budget("epochs", n_steps)

    def _step_flops(self, n_keep: int | None) -> float:
        """FLOPs of a step on so many patches (None: all) of a SimpleViT with these sizes.

        Of a user's own model instead, where that is what trains.
        """
        if n_keep not in self._reference_flops:
            shape = self.data.train.images.shape[1:]
            batch = torch.zeros(self.batch_size, *shape, device=self.device)
            try:
                if self._reference is None:
                    self._reference = FlopCount(self._reference_model(shape[0]))
                flops = self._reference.train_step(batch, n_keep)
            except Exception as error:  # a user's model may not bear what counting does to it
                raise uncountable(error) from error
            if not flops:
                raise uncountable("0 FLOPs per step")
            self._reference_flops[n_keep] = flops
        return self._reference_flops[n_keep]

    def _reference_model(self, channels: int) -> nn.Module:
        """The model that budgets of FLOPs are counted in."""
        n_classes = len(self.data.classes)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # its weights may decide over its FLOPs
            if not isinstance(self._model, str):
                return self._model(n_classes, channels).to(self.device)
            return make_model(
                "simple_vit", n_classes=n_classes, channels=channels, **self._vit_options
            )

    def _new_model(self, seed: int) -> nn.Module:
        """A model with fresh weights that depend on the seed alone."""
        data = self.data
        n_classes, channels = len(data.classes), data.train.images.shape[1]
        # Layers draw their weights from the global generator: lend it, and give it back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = self._make_model(n_classes, channels)
        if model.n_patches != self.n_patches:
            raise ValueError(f"model must have {self.n_patches} patches, got {model.n_patches}")
        return model

    def _make_model(self, n_classes: int, channels: int) -> nn.Module:
        if not isinstance(self._model, str):
            return self._model(n_classes, channels)
        return make_model(
            self._model,
            keep_rate=self._keep_rate,
            n_classes=n_classes,
            channels=channels,
            **self._vit_options,
        )
