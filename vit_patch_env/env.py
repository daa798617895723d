"""ViTPatchSelect-v0: a Vision Transformer's training run as a Gymnasium environment."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from torch import nn

from vit_patch_env.arguments import declared, takes
from vit_patch_env.checks import (
    ArgumentError,
    InputError,
    InputWarning,
    as_text,
    check_choice,
    check_integer,
    counted,
    named,
    plain,
    shown,
)
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.splits import ImageData
from vit_patch_env.data.texts import TextData
from vit_patch_env.episode import Episode, Selector, context_info, early_end, percent
from vit_patch_env.episode_factory import EpisodeFactory
from vit_patch_env.models.weights.card import WeightsCard
from vit_patch_env.names import SplitName
from vit_patch_env.patches.selection import valid_actions
from vit_patch_env.pictures import Window, draw_episode
from vit_patch_env.system.files import load_state, save_state
from vit_patch_env.system.memory import release_freed_memory
from vit_patch_env.training.evaluation import Metrics
from vit_patch_env.training.precision import Precision
from vit_patch_env.training.ranks import LostRankError

Answer = TypeVar("Answer")

_PLAIN = (str, int, float, tuple, type(None))
"""Values of arguments that can be saved."""

_FIXED = {"config", "grid", "n_patches", *(one.name for one in declared(EnvConfig))} - {
    "render_mode"
}
"""Attributes that cannot be assigned, as a new value would not take effect."""


class ResetNeededError(gym.error.ResetNeeded, ValueError):
    """A call that needs a reset before it; Gymnasium's `OrderEnforcing` raises the base class."""


MANY_PATCHES = 576
"""Where attention over all patches is about half of a training step; a larger number is warned of.

Measured with the default sizes, a layer forward and backward, in CPU time on one thread of an Intel
Xeon with torch 2.14: 0.11 ms per patch for 64 to 256 patches, 0.19 ms for 576, 0.36 ms for 1,024
and 1.03 ms for 3,136, which is 3.2 s for an image.
"""


class ViTPatchSelectEnv(gym.Env[NDArray[np.float32], NDArray[Any]]):
    """Train a Vision Transformer while choosing, batch by batch, the patches it trains on.

    ## Description
    One episode is one training run of a ViT from fresh weights, one step is one batch. Before each
    batch the agent observes how the ViT's first layer attends to it, and selects the patches to
    train on. It is rewarded for a low loss with few patches. After AgentViT (Cauteruccio et al.
    2024).

    ## Observation space
    `Box((n_patches,), float32)`. `observation="attention_output"`: the first attention layer's
    output for the next batch, (batch, n_patches, dim), averaged over dim and over the batch
    (paper, section 2.2). `"attention_received"`: the attention that each patch receives, in
    [0, 1]. `"class_attention"`: that which each gets from the class token, of models that have one.
    `"attention_output:0,3,5"` and `"attention_output:mean"`: the mean over the outputs of these
    layers, or of all. All patches are observed, before any selection. `"none"`: zeros, for rules
    that do not use it. With `+run` appended to the name, such as `"attention_output+run"`, three
    run features are appended, so that the shape is (n_patches + 3,): the share of the budget used,
    the running training loss over the first loss, and the running share of patches selected.

    ## Action space
    `MultiBinary(n_patches)`: 1 = train on this patch. One mask serves the whole batch; with
    `per_image` it is moved over each image. If no patch is selected, the one with the highest
    observation is kept.

    ## Reward
    `reward="paper"`:
    `alpha * L(0) / L(t) - (1 - alpha) * |n_selected - n_patches_desired| / n_patches_desired`
    (equation 2.3; the ratio of losses is at most 1,000). Without a desired number the second term
    is `-n_selected / n_patches`. `"validation"`: the decrease of the loss on validation images
    since its last measurement, every `reward_every` steps and at the end; 0 in between.
    `"progress"`: relative decrease of the loss against its running mean, per FLOP. `"aic"`:
    `-(loss + n_selected / n_patches)`. More about each in `vit_patch_env/reward.py`.

    ## Episode end
    Truncated, or terminated with `budget_end="terminated"`, when the budget is used up; learning
    rate schedules follow the share used.
    `budget="epochs"`: `epochs` passes over the training images. `"flops"`: the FLOPs of `epochs`
    passes of a SimpleViT of these sizes on all patches, so that fewer patches per step allow more
    steps; observations and rewards use it too. `"seconds"`: wall-clock time since the first step,
    including the agent's and excluding evaluation; such runs are not reproducible. Terminated if
    the loss is not finite, with a reward that makes the return lower than that of any healthy run,
    at most -100. A step with a finite loss but a gradient that is
    not finite changes no weights; ten such steps in a row end the run as well. After the end, a
    step raises `gymnasium.error.ResetNeeded`.

    ## Info
    `loss`, `n_selected`, `reward_loss`, `reward_patch` (the terms of equation 2.3, whichever the
    reward), `epoch` (of this batch, from 0), `progress` (share of the budget used),
    `empty_action`, `skipped`, `diverged`, and `loss_mean` and `n_selected_mean`, the means over the
    episode so far. The last info of an episode also has `val_loss` and `val_accuracy` of the
    trained ViT on the validation images, and `is_success`, the same accuracy under the name that
    Stable-Baselines3 logs as `rollout/success_rate`. It contains no times except the share of a
    budget of seconds, so that it is reproducible with any other budget. The info of `reset` has, as
    NumPy's scalars, `epoch`, `progress` and `budget_steps`: the steps on all patches that the
    budget is worth, unless it is of seconds. With run features it also has what else distinguishes
    this training from others: `n_images`, `n_classes`, `n_patches`, `n_parameters`, and
    `step_costs`, (5,) float64: the cost of a step on 1/16, 1/8, 1/4, 1/2 and all of the patches
    over that on all, in the unit of the budget. With a budget of seconds these steps are timed on a
    second model at the first reset, which takes up to 2 % of the budget, or ten steps, and
    `budget_steps` is what the budget buys at this speed.

    ## Saving
    `env.unwrapped.save(path)` writes the complete state of the run; `load(path)` resumes it, also
    in another process, as if it had not been interrupted.

    ## torch
    The ViT trains in the same way whatever torch state the caller has set: under `no_grad`,
    `inference_mode` or `autocast`, and with any default type or device of tensors.

    ## Arguments
    All keyword-only: those of `vit_patch_env.config.EnvConfig`, where type, range, default and
    meaning of each are declared. Through `gym.make` they are JSON values; `dataset`, `model` and
    `augment` also take objects when the class is used directly. A `model` is a module, or a
    function of (n_classes, channels) that returns one: of another library, or with `n_patches`,
    `model(images, keep=None)` and `model.first_attention(images)`; see docs/models.md. An `augment`
    function maps uint8 images (batch, channels, height, width) on the device to images of the same
    type and shape.

    Attributes:
        config: the arguments; each of them can also be read as an attribute, and none but
            `render_mode` can be assigned.
        grid: rows and columns of patches of an image.
        n_patches: their number.
        device: of the ViT.
        precision: of the ViT.

    Raises:
        ValueError: for an invalid value, stating what was expected and what was given.
    """

    config: EnvConfig
    grid: tuple[int, int]
    n_patches: int
    batch_size: int
    epochs: float
    device: torch.device
    precision: Precision
    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array", "human"],
        "render_fps": 10,
    }

    @takes(EnvConfig)
    def __init__(self, config: EnvConfig) -> None:
        self._factory = EpisodeFactory(config)
        precision = self._factory.precision
        fixed = {one.name: getattr(config, one.name) for one in declared(EnvConfig)}
        fixed |= {"config": config, "grid": config.grid, "n_patches": config.n_patches}
        fixed |= {"precision": precision, "device": precision.device}
        vars(self).update(fixed)  # as these names cannot be assigned
        self.observation_space = self._factory.observation.space(self.n_patches)
        self.action_space = spaces.MultiBinary(self.n_patches)
        self._spec: EnvSpec | None = None
        _hint_at_run_features(config)
        _hint_at_cost(config)
        self._episode: Episode | None = None
        self._last_episode: Episode | None = None
        self._closed = False
        self._window: Window | None = Window() if config.render_mode == "human" else None

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign an attribute that is not an argument.

        Raises:
            ArgumentError: for an argument, whose new value would not take effect.
        """
        if name in _FIXED:
            raise ArgumentError(
                name, "cannot be assigned: make a new environment with the other value"
            )
        super().__setattr__(name, value)

    @property
    def spec(self) -> EnvSpec | None:
        """How `gym.make` made the environment; None if it did not.

        With a budget of seconds the environment is nondeterministic: the clock determines the share
        of the budget used, the learning rate and the end.
        """
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            kwargs = {name: _json_value(value) for name, value in spec.kwargs.items()}
            timed = self.config.budget == "seconds"
            spec = replace(spec, kwargs=kwargs, nondeterministic=spec.nondeterministic or timed)
        self._spec = spec

    @property
    def data(self) -> ImageData | TextData:
        """The images, or texts, and labels, on the training device; loaded at first use."""
        return self._factory.data

    @property
    def episode(self) -> Episode:
        """The running episode, or the one that has just ended, until the next reset.

        Raises:
            ResetNeededError: before the first reset, and after `close`.
        """
        if self._episode is None:
            got = "a closed environment" if self._closed else "none"
            raise ResetNeededError(f"expected a reset before this call, got {got}")
        return self._episode

    @property
    def last_episode(self) -> Episode:
        """The episode that ended last, for vectorised environments, which then reset themselves.

        It ended because its budget was used or it diverged, or early: a reset also ends an episode
        that has trained. `last_episode.progress` is the share of the budget that it used.

        Raises:
            ValueError: if none has ended yet.
        """
        if self._last_episode is None:
            running = "got none"
            if self._episode is not None:
                used = percent(self._episode.progress)
                running = f"got a running one that has used {used} of its budget"
            raise InputError(f"expected an episode that has ended, {running}")
        return self._last_episode

    def ask(self, question: Callable[[Episode], Answer], *, ended: bool = False) -> Answer:
        """The result of a function of the running episode, or of the one that ended last.

        For environments in other processes: `vec_env.env_method("ask", attrgetter("timings"))`.

        Args:
            question: a function that can be pickled.
            ended: whether to call it with `last_episode`.
        """
        return question(self.last_episode if ended else self.episode)

    def _vit_patch_apply(self, function: "Callable[[ViTPatchSelectEnv], Answer]") -> Answer:
        """The result of a function of the environment, in whatever process it is.

        Vectorised environments look for it in the wrappers first; so they must not have one.
        """
        return function(self)

    def action_masks(self) -> NDArray[np.bool_]:
        """The valid actions, (2 * n_patches,): whether each patch may be dropped, and kept.

        For MaskablePPO of sb3-contrib. Every patch may be dropped or kept, unless it is the only
        one. A wrapper may override it to exclude patches.
        """
        return valid_actions(self.n_patches)

    @property
    def steps_per_epoch(self) -> int:
        """Training batches, and so environment steps, per epoch."""
        return self._factory.steps_per_epoch

    @property
    def budget_steps(self) -> int:
        """The budget in steps on all patches; for a budget of seconds, those of `epochs` passes."""
        return self._factory.budget_steps

    @property
    def context(self) -> dict[str, Any]:
        """What the info of `reset` says of this training, as plain data."""
        return self._factory.context

    @property
    def expected_steps(self) -> int:
        """Steps per episode; for a budget of FLOPs, with `n_patches_desired` patches per step."""
        return self._factory.expected_steps

    @property
    def max_steps(self) -> int:
        """Upper bound on the steps of an episode: the number to pass to `learn`."""
        return self._factory.max_steps

    @property
    def steps_done(self) -> int:
        """Steps of the running episode so far."""
        return self.episode.run.steps_done

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start a training run with new weights, data order and augmentation.

        All of them come from `np_random`: the same seed gives the same run. An episode that was
        running and has trained becomes `last_episode`.

        Raises:
            ValueError: for a seed that is not an integer from 0, or any options.
        """
        if seed is not None:
            check_integer(0, seed=seed)
            seed = int(seed)
        if not isinstance(options, dict | None) or options:
            raise ArgumentError(
                "options", f"must be None, as there are no options, got {shown(options)}"
            )
        if self._factory.follows:
            self._follow()
        super().reset(seed=seed)
        weights_seed, stream_seed = self.np_random.integers(2**63, size=2).tolist()
        episode, before = self._factory.make(weights_seed, stream_seed), self._episode
        if before is not None and before.run.steps_done:
            self._last_episode = before
        self._episode = episode
        if self.render_mode == "human":
            if self._window is not None:
                self._window.reopen()
            self.render()
        return episode.view(), self._reset_info()

    def _follow(self) -> NoReturn:
        """Train with the environment of another process until that ends, then end this one."""
        try:
            self._factory.follow()
        except LostRankError as error:
            raise SystemExit(f"vit-patch: {error}") from error
        raise SystemExit(0)

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Train on the selected patches of the next batch.

        Args:
            action: (n_patches,), 1 = train on this patch.

        Raises:
            ResetNeededError: before the first reset, or after the episode has ended.
            ValueError: for another shape or values other than 0 and 1.
        """
        episode = self.episode
        if episode is self._last_episode:
            raise ResetNeededError("expected a reset, as the episode has ended, got a step")
        patch_mask, empty_action = episode.select(action)
        epoch = episode.run.steps_done // self.steps_per_epoch
        loss, reward, terms, skipped = episode.step(patch_mask)
        diverged = episode.diverged
        used_up = not diverged and episode.run.progress >= 1
        ended = diverged or used_up
        terminated = diverged or (used_up and self.config.budget_end == "terminated")
        if ended:
            self._last_episode = episode
        info = {
            "loss": loss,
            "n_selected": int(patch_mask.sum()),
            "reward_loss": terms.loss,
            "reward_patch": terms.patch,
            "epoch": epoch,
            "progress": episode.run.progress,
            "empty_action": empty_action,
            "skipped": skipped,
            "diverged": diverged,
            **episode.means(),
            **(episode.final_metrics() if ended else {}),
        }
        if self.render_mode == "human":
            self.render()
        return episode.view(), reward, terminated, ended and not terminated, info

    def evaluate(
        self,
        split: SplitName,
        selector: Selector | None = None,
        *,
        episode: Literal["running", "last"] = "running",
    ) -> Metrics:
        """Metrics of an episode's ViT on a split: see `Episode.evaluate`.

        For an agent with wrappers between it and the environment: `evaluate_agent`.

        Args:
            split: as in `Episode.evaluate`.
            selector: as in `Episode.evaluate`.
            episode: `running`, or `last` for `last_episode`, with a warning if it ended before its
                budget was used.
        """
        check_choice(("running", "last"), episode=episode)
        if episode == "running":
            return self.episode.evaluate(split, selector)
        last = self.last_episode
        early = early_end(last)
        if early is not None:
            warnings.warn(early, stacklevel=2)
        return last.evaluate(split, selector)

    def exclude_time(self, seconds: float) -> None:
        """Exclude seconds, such as those of a checkpoint, from the measured training time."""
        self.episode.exclude_time(seconds)

    def render(self) -> NDArray[np.uint8] | None:
        """The last step as a picture, (height, width, 3): see `vit_patch_env.pictures`.

        With `render_mode="human"`, `reset` and `step` show it in a window, and this does as well,
        unless the user has closed the window, which the next `reset` opens again. Its time is
        excluded from the training time.

        Returns:
            The picture with `render_mode="rgb_array"`, otherwise None.
        """
        closed_by_user = self._window is not None and self._window.is_closed_by_user
        if self.render_mode is None or (self.render_mode == "human" and closed_by_user):
            return None
        picture = draw_episode(self.episode, self.grid, self.config.observation, "other")
        if self.render_mode == "rgb_array":
            return picture
        if self._window is None:
            self._window = Window()
        with self.episode.run.stopwatch.span("other"):
            self._window.show(picture, self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Free images, models and episodes; a later `reset` loads the images again."""
        if self._window is not None:
            self._window.close()
        self._episode = self._last_episode = None
        self._closed = True  # until a reset, which sets the episode
        self._factory.free()
        release_freed_memory(self.device)

    def save(self, path: str | Path) -> None:
        """Write the running episode, the one that ended last and the random generators to a file.

        Raises:
            ValueError: before the first reset.
            OSError: if it cannot be written; the previous content of the file is kept.
        """
        save_state(Path(path), self.state_dict())

    def load(self, path: str | Path) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Resume where `save` was called, in an environment of the same arguments.

        Arguments that may differ: `data_dir`, `device`, `render_mode`. On one machine and device,
        with the same number of threads, every step is the same as without the interruption. No code
        in the file is executed.

        Returns:
            The observation of the next batch, and the info of a reset.

        Raises:
            ValueError: if the file is damaged, or from an environment with other arguments or
                images.
        """
        self.load_state_dict(load_state(Path(path)))
        with self.episode.run.stopwatch.span("other"):  # steps may be timed
            info = self._reset_info()
        return self.episode.view(), info

    def state_dict(self) -> dict[str, Any]:
        """What `save` writes, as plain data and tensors, which later steps do not change.

        Raises:
            ValueError: before the first reset.
        """
        current, last = self.episode, self._last_episode
        return {
            "arguments": self._fixed_arguments(),
            "images": self.image_statistics(),
            "np_random": self.np_random.bit_generator.state,
            "np_random_seed": self._np_random_seed,
            "action_space": self.action_space.np_random.bit_generator.state,
            "episode": current.state_dict(),
            "last_is_current": last is current,
            "last_episode": None if last in (None, current) else last.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where `state_dict` was called.

        Raises:
            ValueError: if it is from an environment with other arguments or images, or damaged.
        """
        if self._factory.follows:
            self._follow()
        try:
            own = {**self._fixed_arguments(), **self.image_statistics()}
            for name, value in {**state["arguments"], **state["images"]}.items():
                if own.get(name) != value:
                    of = " images" if name in get_args(SplitName) else ""
                    raise InputError(
                        f"{name}{of} must be that of the saved run, {value}, got {own.get(name)}"
                    )
            last = state["last_episode"] and self._loaded_episode(state["last_episode"])
            current = self._loaded_episode(state["episode"])
            last = current if state["last_is_current"] else last
            self.np_random.bit_generator.state = state["np_random"]
            self._np_random_seed = state["np_random_seed"]
            self.action_space.np_random.bit_generator.state = state["action_space"]
        except (InputError, MemoryError, LostRankError):
            raise
        except Exception as error:  # a state of other types makes libraries raise anything
            reason = str(error).split("\n")[0]
            raise InputError(f"expected the state of a run with this ViT, got: {reason}") from error
        self._episode, self._last_episode = current, last

    def read_weights(self, saved: Path | None = None) -> None:
        """Read or download the weights that training starts from, if any, and check them.

        Otherwise the first use of the data or the first reset does so, before the images are read.

        Args:
            saved: of `save_weights`, to read instead.

        Raises:
            ArgumentError: if they cannot be read, or are those of another model.
        """
        self._factory.models.read_weights(saved)

    def save_weights(self, path: Path) -> None:
        """Save the weights that training starts from, for runs that must not depend on their file.

        Args:
            path: of the file, safetensors.
        """
        self._factory.models.save_weights(path, self.data.channels)

    def weights_card(self, model: nn.Module) -> WeightsCard:
        """What a file of the weights of an episode's ViT carries, so that it alone is enough.

        Args:
            model: of an episode.
        """
        return self._factory.weights_card(model)

    def image_statistics(self) -> dict[str, Any]:
        """Statistics that identify the images, and those used to normalise, as plain data."""
        data = self.data
        return {
            **{name: len(getattr(data, name).labels) for name in get_args(SplitName)},
            "classes": list(data.classes),
            **self._factory.statistics,
        }

    def _fixed_arguments(self) -> dict[str, Any]:
        """The arguments that a resumed run must not change; objects by the name of their class."""
        values = {
            one.name: getattr(self.config, one.name)
            for one in declared(EnvConfig)
            if one.changes_run
        }
        return {
            name: value if isinstance(value, _PLAIN) else type(value).__name__
            for name, value in values.items()
        }

    def _reset_info(self) -> dict[str, Any]:
        run = self.episode.run
        return {  # NumPy's scalars, as TorchRL's readers need values with a dtype
            "epoch": np.int64(run.steps_done // self.steps_per_epoch),
            "progress": np.float64(run.progress),
            **context_info(self.context),
        }

    def _loaded_episode(self, state: dict[str, Any]) -> Episode:
        episode = self._factory.make(0, 0)
        episode.load_state_dict(state)
        return episode


def _hint_at_run_features(config: EnvConfig) -> None:
    """Say if the reward depends on what the observation does not show; the paper's pair is known.

    A constant observation is for rules that observe nothing.
    """
    observation, reward = config.observation, config.reward
    if reward == "paper" or observation == "none" or observation.endswith("+run"):
        return
    warnings.warn(
        InputWarning(
            f"{named('reward')} {reward} depends on the time and the loss of the run, which "
            f"{named('observation')} {observation} does not show: {observation}+run does"
        ),
        stacklevel=4,
    )


def _hint_at_cost(config: EnvConfig) -> None:
    """Say if attention over all patches costs much: see `MANY_PATCHES`.

    A user's model may not have such attention.
    """
    if config.n_patches <= MANY_PATCHES or not isinstance(config.model, str):
        return
    warnings.warn(
        InputWarning(
            f"images of {counted(config.n_patches, 'patch')} make slow steps, as the cost of "
            f"attention grows with the square of their number: a larger {named('patch_size')} or "
            f"a smaller {named('image_size')} makes fewer"
        ),
        stacklevel=4,
    )


def _json_value(value: object) -> object:
    """A value as JSON has it, so that a spec read from JSON equals the one that was written."""
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return as_text(plain(value))
