"""One episode: a ViT's training run with observations and rewards."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_patch_env.checks import InputError, check_choice, named
from vit_patch_env.course import Course, ShownStep
from vit_patch_env.data.batches import Batch
from vit_patch_env.data.images import in_batches
from vit_patch_env.data.splits import SplitData
from vit_patch_env.layers import check_selector
from vit_patch_env.names import RewardName, SplitName
from vit_patch_env.observation import FEATURES_AFTER_RUN, Observation, run_features
from vit_patch_env.patches.sampling import Grid
from vit_patch_env.patches.selection import (
    check_patch_mask,
    keep_to_masks,
    mask_to_keep,
    shifted,
)
from vit_patch_env.penalty import RunSoFar, StepKind, divergence_reward
from vit_patch_env.reward import (
    REWARDS,
    WINDOW,
    RewardTerms,
    StepOutcome,
    patch_term,
    reward_terms,
)
from vit_patch_env.system.memory import excluded_from_peak
from vit_patch_env.system.torch_state import own_torch_state
from vit_patch_env.training.evaluation import Evaluated, Metrics
from vit_patch_env.training.ranks import Command, Ranks
from vit_patch_env.training.run import TrainingRun

MAX_SKIPPED = 10
"""Consecutive skipped updates that end a run, since its weights no longer change."""

N_SHOWN = 8
"""Images of a batch that are kept for rendering."""

_PATCHES = 2
"""A seed that makes the random numbers of patches per image others than those of a batch."""


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


class Selection(NamedTuple):
    """The patches that an action selects, at least one.

    Attributes:
        patch_mask: (n_patches,), True = train on this patch.
        empty_action: whether the action selected none, in which case the patch with the highest
            observation is selected.
    """

    patch_mask: NDArray[np.bool_]
    empty_action: bool


def select_patches(action: Any, values: NDArray[np.float32]) -> Selection:
    """The patches that an action selects: see `Episode.select`."""
    patch_mask = check_patch_mask(action, len(values))
    empty = not patch_mask.any()
    if empty:
        patch_mask[values.argmax()] = True
    return Selection(patch_mask, empty)


def context_info(context: Mapping[str, Any]) -> dict[str, Any]:
    """A context of plain data as NumPy's numbers and arrays, as TorchRL's readers need a dtype."""
    return {
        name: np.array(value) if isinstance(value, tuple) else np.int64(value)
        for name, value in context.items()
    }


def percent(progress: float) -> str:
    """A share of the budget in words, rounded down: 100 % is all of it."""
    return f"{math.floor(100 * progress)} %"


def early_end(episode: "Episode") -> str | None:
    """That an episode was ended before its budget was used; None if it was not, or diverged."""
    if episode.diverged or episode.progress >= 1:
        return None
    return f"the last episode ended after {percent(episode.progress)} of its budget"


class Outcome(NamedTuple):
    """The outcome of a step: its loss and reward, and the terms of equation 2.3.

    Attributes:
        skipped: whether a gradient was not finite, so that the step changed no weights.
    """

    loss: float
    reward: float
    terms: RewardTerms
    skipped: bool


class RewardSettings(NamedTuple):
    """The reward and its parameters, as in the environment's arguments."""

    name: RewardName
    n_patches_desired: int | None
    alpha: float
    every: int


class Timings(NamedTuple):
    """Time that an episode spent, in seconds.

    Attributes:
        train_seconds: training steps, batches included.
        observe_seconds: the agent's observations.
        reset_seconds: creating the episode.
        excluded_seconds: counting FLOPs, and what `exclude_time` excludes, such as checkpoints.
    """

    train_seconds: float
    observe_seconds: float
    reset_seconds: float
    excluded_seconds: float


class Episode:
    """One episode, created by `reset` and advanced by `step`.

    Args:
        run: of the ViT.
        data: to train and evaluate on.
        observation: of the agent.
        reward: of the agent.
        validation: batches that the validation loss is measured on, if the reward needs it.
        grid: rows and columns of patches, over which a selection is moved for each image; None: all
            images of a batch train on the same patches.
        ranks: the processes that train together; None for a single one.
        step_kinds: what a run's steps can be, for the reward of a divergence; maps the seconds of
            the fastest steps so far by number of patches, which are empty for other budgets.

    Attributes:
        run: of the ViT.
        values: observation of the next batch without run features, (n_patches,) float32; after a
            divergence, the last finite one.
        shown: the first images of the last training batch, with patches and predictions; None
            before the first step.
        course: of loss, reward and number of patches so far.
        diverged: whether it has ended because its loss is not finite, or too many consecutive
            steps were skipped.
        step_seconds: of the last training step with its observation; NaN before the first one.
    """

    step_seconds = math.nan

    def __init__(
        self,
        run: TrainingRun,
        data: SplitData,
        *,
        observation: Observation,
        reward: RewardSettings,
        validation: list[Batch],
        step_kinds: Callable[[Mapping[int, float]], list[StepKind]],
        grid: Grid | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.run = run
        self._ranks, self._number = ranks, ranks.n_episodes if ranks is not None else 0
        self.data = data
        self.shown: ShownStep | None = None
        self.course = Course()
        self.values: NDArray[np.float32] = run.observe_next().cpu().numpy()
        self._observation = observation
        self._reward = reward
        self._validation = validation
        self._grid = grid
        self._initial_loss = self._mean_loss = math.nan
        self._loss_sum = self._n_selected_sum = 0.0
        self._selected_share = 1.0
        self._n_consecutive_skipped = 0
        self._val_loss = run.validation_loss(validation) if validation else math.nan
        self._initial_val_loss = self._val_loss
        self._returned = 0.0
        self._step_kinds = step_kinds
        self._fastest: dict[int, float] = {}
        self.diverged = False
        run.update_progress()

    @property
    def model(self) -> nn.Module:
        """The ViT."""
        return self.run.trainer.model

    @property
    def evaluated(self) -> nn.Module:
        """The ViT that is evaluated and saved: with the average of its weights, if it has one."""
        return self.run.trainer.evaluated

    @property
    def progress(self) -> float:
        """Share of the budget used so far, in [0, 1]: less than 1 if the episode ended early."""
        return self.run.progress

    @property
    def patch_mask(self) -> NDArray[np.bool_]:
        """(n_patches,) patches that the last step trained on; all before the first step."""
        if self.shown is None:
            return np.ones_like(self.values, dtype=np.bool_)
        return self.shown.patch_mask.copy()

    @property
    def timings(self) -> Timings:
        """Time spent so far."""
        seconds = self.run.stopwatch.seconds
        return Timings(
            seconds["train"],
            seconds["observe"],
            seconds["reset"],
            seconds["count"] + seconds["other"],
        )

    def flops(self) -> float:
        """FLOPs of steps, observations and rewards so far, without the agent's networks."""
        return self.run.flops()

    def exclude_time(self, seconds: float) -> None:
        """Exclude seconds, such as those of a checkpoint, from the measured training time."""
        self.run.stopwatch.seconds["other"] += seconds

    def view(self, values: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The agent's observation of the next batch, or of other batches after the run.

        Args:
            values: observation of other batches without run features, (n_patches,).
        """
        if not self._observation.with_run:
            return (self.values if values is None else values).copy()
        if values is not None:
            return np.concatenate((values, FEATURES_AFTER_RUN))
        ratio = self._mean_loss / self._initial_loss if self._initial_loss > 0 else 1.0
        features = run_features(self.run.progress, ratio, self._selected_share)
        return np.concatenate((self.values, features))

    def select(self, action: Any, values: NDArray[np.float32] | None = None) -> Selection:
        """The patches that an action selects.

        Args:
            action: (n_patches,), 1 = train on this patch.
            values: the observation that it is based on, without run features; by default that of
                the next batch.

        Raises:
            ValueError: for another shape or values other than 0 and 1.
        """
        return select_patches(action, self.values if values is None else values)

    def step(self, patch_mask: NDArray[np.bool_]) -> Outcome:
        """Train on the next batch.

        Args:
            patch_mask: (n_patches,), True = train on this patch.
        """
        with own_torch_state(model=self.model):
            outcome = self._step(patch_mask)
        self.course.add(outcome.loss, outcome.reward, int(patch_mask.sum()))
        return outcome

    def _step(self, patch_mask: NDArray[np.bool_]) -> Outcome:
        run, settings = self.run, self._reward
        batch, observed = run.batch, self.values
        keep = self._keep_in_training(patch_mask)
        flops_share = self._flops_share(keep)  # before the step, which may change the model's rate
        seconds_before = self._seconds_so_far
        with self._all("train", patch_mask, run.progress):
            loss, skipped, values = run.step(keep)
        self._finish()
        images, labels = (one[:N_SHOWN] for one in batch)
        logits = run.trainer.logits
        assert logits is not None
        of_each = None
        if keep is not None and keep.ndim == 2:
            of_each = keep_to_masks(keep[:N_SHOWN], len(patch_mask))
        self.shown = ShownStep(images, patch_mask, labels, logits[:N_SHOWN], observed, of_each)
        self._time_step(int(patch_mask.sum()), seconds_before)
        self._loss_sum += loss
        if np.isfinite(values).all():
            self.values = values
        n_selected, n_patches = int(patch_mask.sum()), len(patch_mask)
        self._n_selected_sum += n_selected
        decrease = self._val_loss_decrease()
        if not run.trainer.update.n_added:  # an update was due
            self._n_consecutive_skipped = self._n_consecutive_skipped + 1 if skipped else 0
        finite = math.isfinite(loss) and math.isfinite(decrease)
        # A scale of the loss that is too large is lowered first.
        max_skipped = MAX_SKIPPED + run.trainer.update.n_scale_steps
        if not finite or self._n_consecutive_skipped == max_skipped:
            patch = patch_term(n_selected, settings.n_patches_desired, n_patches)
            self.diverged = True
            reward = divergence_reward(self._so_far(loss, n_patches))
            return Outcome(loss, reward, RewardTerms(0.0, patch), skipped)
        if run.steps_done == 1:
            self._initial_loss = self._mean_loss = loss
        outcome = StepOutcome(
            loss=loss,
            initial_loss=self._initial_loss,
            mean_loss=self._mean_loss,
            n_selected=n_selected,
            n_desired=settings.n_patches_desired,
            n_patches=n_patches,
            alpha=settings.alpha,
            flops_share=flops_share,
            val_loss_decrease=decrease,
        )
        weight = 1 / min(run.steps_done, WINDOW)
        self._mean_loss += weight * (loss - self._mean_loss)
        self._selected_share += weight * (n_selected / n_patches - self._selected_share)
        reward = REWARDS[settings.name](outcome)
        self._returned += reward
        return Outcome(loss, reward, reward_terms(outcome), skipped)

    def _so_far(self, loss: float, n_patches: int) -> RunSoFar:
        """What is known of the run, which diverges with this loss."""
        settings = self._reward
        first = next(
            (one for one in (self._initial_loss, loss) if math.isfinite(one)),
            math.log(len(self.data.classes)),  # of guesses
        )
        first_val = self._initial_val_loss if math.isfinite(self._initial_val_loss) else 0.0
        return RunSoFar(
            name=settings.name,
            returned=self._returned,
            kinds=self._step_kinds(self._fastest),
            initial_loss=first,
            initial_val_loss=first_val,
            n_desired=settings.n_patches_desired,
            n_patches=n_patches,
            alpha=settings.alpha,
        )

    @property
    def _seconds_so_far(self) -> float:
        """Seconds of training steps and observations so far, without the agent's."""
        seconds = self.run.stopwatch.seconds
        return seconds["train"] + seconds["observe"]

    def _time_step(self, n_selected: int, seconds_before: float) -> None:
        """Remember the fastest step, with a budget of seconds; the first one warms up."""
        self.step_seconds = seconds = self._seconds_so_far - seconds_before
        if self.run.budget.name == "seconds" and self.run.steps_done > 1:
            self._fastest[n_selected] = min(seconds, self._fastest.get(n_selected, seconds))

    def means(self) -> dict[str, float]:
        """Means over the steps so far: of the training loss, and of the patches selected."""
        n_steps = max(self.run.steps_done, 1)
        return {
            "loss_mean": self._loss_sum / n_steps,
            "n_selected_mean": self._n_selected_sum / n_steps,
        }

    def final_metrics(self) -> dict[str, float]:
        """Metrics of the trained ViT on the validation images, all patches, for the last info.

        Their time and memory are excluded from those of training. Empty if there are no images.
        `is_success`, which Stable-Baselines3 averages, is the accuracy, and 0 after a divergence.
        """
        if not len(self.data.val.labels):
            return {}
        with excluded_from_peak(self._device):
            val = self._predict("val", None, "other").metrics
        success = 0.0 if self.diverged else val.accuracy
        return {"val_loss": val.loss, "val_accuracy": val.accuracy, "is_success": success}

    def evaluate(self, split: SplitName, selector: Selector | None = None) -> Metrics:
        """Metrics of the ViT on a split: loss, accuracy, macro precision, recall and F1.

        Args:
            split: `val` for decisions during training, `test` for final metrics, or `train`.
            selector: anything with Stable-Baselines3's predict(), called deterministically for
                the patches of each batch; by default all patches are used. Its run features, if
                any, are those of a finished run: 1, 0, 1.

        Raises:
            ValueError: for an unknown split, or an agent with wrappers between it and the
                environment, for which there is `vit_patch_env.evaluate_agent`.
        """
        return self.predict_split(split, selector).metrics

    def predict_split(self, split: SplitName, selector: Selector | None = None) -> Evaluated:
        """The metrics of `evaluate`, and the predictions for each image of the split.

        Args:
            split: as for `evaluate`.
            selector: as for `evaluate`.

        Raises:
            ValueError: as `evaluate`.
        """
        check_choice(get_args(SplitName), split=split)
        check_selector(selector)
        if selector is not None and self._is_of_all:
            with self.run.stopwatch.span("evaluate"):
                masks = self._masks(split, selector)
            return self.evaluate_masks(split, masks)
        state: Any = None

        def select(images: Tensor) -> Tensor | None:
            nonlocal state
            assert selector is not None
            # After a divergence they may not be finite, which policies reject.
            values = np.nan_to_num(self.run.observe(images, self.evaluated).cpu().numpy())
            patch_mask, state = self._chosen(selector, values, state)
            return self._keep(patch_mask)

        if selector is None:
            return self._predict(split, None)
        return self.run.predict_split(getattr(self.data, split), select)

    def _masks(self, split: SplitName, selector: Selector) -> list[NDArray[np.bool_]]:
        """The patches that an agent selects of each batch of a split."""
        masks, state = [], None
        for values in self.observe_split(split):
            patch_mask, state = self._chosen(selector, values, state)
            masks.append(patch_mask)
        return masks

    def _chosen(
        self, selector: Selector, values: NDArray[np.float32], state: Any
    ) -> tuple[NDArray[np.bool_], Any]:
        """The patches that an agent selects of a batch after the run, and its next state."""
        action, state = selector.predict(self.view(values), state=state, deterministic=True)
        return self.select(action, values).patch_mask, state

    def observe_split(self, split: SplitName) -> list[NDArray[np.float32]]:
        """The observation of each batch of a split without run features, (n_patches,)."""
        batches = in_batches(getattr(self.data, split).images, self.run.stream.batch_size)
        normalize, device = self.run.stream.normalize, self._device
        model = self.evaluated
        observed = (self.run.observe(normalize(images.to(device)), model) for images in batches)
        # After a divergence they may not be finite, which policies reject.
        return [np.nan_to_num(values.cpu().numpy()) for values in observed]

    def evaluate_masks(
        self, split: SplitName, patch_masks: Sequence[NDArray[np.bool_]]
    ) -> Evaluated:
        """Metrics and predictions of the ViT on a split, on given patches.

        Args:
            split: as for `evaluate`.
            patch_masks: (n_patches,) of each batch of the split, in order.
        """
        return self._predict(split, patch_masks)

    def _predict(
        self,
        split: SplitName,
        patch_masks: Sequence[NDArray[np.bool_]] | None,
        span: str = "evaluate",
    ) -> Evaluated:
        """Metrics and predictions on a split, on given patches of each batch or on all."""
        items = getattr(self.data, split)
        keep = None if patch_masks is None else [self._keep(one) for one in patch_masks]
        if self._is_of_all:
            with self._all("predict", split, patch_masks, span):
                found = self.run.predict_with_all(items, keep, span)
            assert found is not None
            return found
        if keep is None:
            return self.run.predict_split(items, span=span)
        kept = iter(keep)
        return self.run.predict_split(items, lambda images: next(kept), span)

    def exclude_evaluation(self, seconds: float) -> None:
        """Exclude seconds of an evaluation from the measured training time."""
        self.run.stopwatch.seconds["evaluate"] += seconds

    def state_dict(self) -> dict[str, Any]:
        """The complete state now, as plain data and tensors."""
        return {
            "run": self.run.state_dict(),
            "values": torch.from_numpy(self.values),
            "losses": (self._initial_loss, self._mean_loss, self._val_loss),
            "selected_share": self._selected_share,
            "sums": (self._loss_sum, self._n_selected_sum),
            "returned": (self._returned, self._initial_val_loss),
            "fastest": dict(self._fastest),
            "diverged": self.diverged,
            "n_consecutive_skipped": self._n_consecutive_skipped,
            "shown": self.shown and self.shown.state(),
            "course": self.course.state_dict(),
        }

    @own_torch_state()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another episode with the same arguments."""
        with self._all("load", state["run"]):
            self.run.load_state_dict(state["run"])
        self.values = state["values"].numpy()
        self._initial_loss, self._mean_loss, self._val_loss = state["losses"]
        self._selected_share = state["selected_share"]
        # Files of earlier versions have no sums.
        self._loss_sum, self._n_selected_sum = state.get("sums", (math.nan, math.nan))
        self._returned, self._initial_val_loss = state.get("returned", (0.0, self._val_loss))
        self._fastest = dict(state.get("fastest", {}))
        self.diverged = state.get("diverged", False)
        self._n_consecutive_skipped = state["n_consecutive_skipped"]
        shown = state["shown"]
        self.shown = None if shown is None else ShownStep.from_state(shown, self._device)
        self.course = Course()
        if "course" in state:
            self.course.load_state_dict(state["course"])

    def follow(self, command: Command) -> None:
        """Do what the episode of rank 0 does of the training itself."""
        run, arguments = self.run, command.arguments
        with own_torch_state(model=self.model):
            match command.name:
                case "train":
                    patch_mask, run.progress = arguments
                    run.step(self._keep_in_training(patch_mask))
                case "measure":
                    run.validation_loss(self._validation)
                case "finish":
                    run.trainer.finish()
                case "load":
                    run.load_state_dict(*arguments)
                case "predict":
                    split, masks, span = arguments
                    keep = None if masks is None else [self._keep(one) for one in masks]
                    run.predict_with_all(getattr(self.data, split), keep, span)

    @property
    def _is_of_all(self) -> bool:
        """Whether other processes have this episode as well, which do what this one tells them."""
        ranks = self._ranks
        return ranks is not None and ranks.leads and self._number == ranks.n_episodes

    def _all(self, name: str, *arguments: Any) -> AbstractContextManager[None]:
        """Tell the other processes, if there are any, what all do within the block.

        Raises:
            InputError: if they have a newer episode instead.
        """
        if self._ranks is None or not self._ranks.leads:
            return nullcontext()
        if not self._is_of_all:
            raise InputError(
                f"expected the newest episode of an environment with {named('distributed')}, got "
                "an earlier one"
            )
        return self._ranks.doing(name, *arguments)

    def _finish(self) -> None:
        """Tell the others that the budget is used up, as the last batches are trained on then."""
        if self._ranks is not None and self.progress >= 1:
            with self._all("finish"):
                pass

    @property
    def _device(self) -> torch.device:
        return self.run.trainer.precision.device

    def _keep(self, patch_mask: NDArray[np.bool_]) -> Tensor | None:
        """Indices of the kept patches, on the device; None where all are kept."""
        if patch_mask.all():
            return None
        return mask_to_keep(patch_mask).to(self._device, non_blocking=True)

    def _keep_in_training(self, patch_mask: NDArray[np.bool_]) -> Tensor | None:
        """As `_keep`, with `grid` (batch, n_keep): from the seed and the step alone."""
        if self._grid is None or patch_mask.all():
            return self._keep(patch_mask)
        rng = np.random.default_rng((self.run.stream.seed, self.run.steps_done, _PATCHES))
        n_images = self.run.stream.batch_size
        keep = shifted(mask_to_keep(patch_mask), n_images, self._grid, rng)
        if self._ranks is not None:
            keep = keep[self._ranks.part(n_images)]
        return keep.to(self._device, non_blocking=True)

    def _val_loss_decrease(self) -> float:
        """Decrease of the validation loss since it was last measured; 0 between measurements."""
        run = self.run
        if not self._validation or (run.steps_done % self._reward.every and run.progress < 1):
            return 0.0
        with self._all("measure"):
            before, self._val_loss = self._val_loss, run.validation_loss(self._validation)
        run.update_progress()
        self._finish()
        return before - self._val_loss

    def _flops_share(self, keep: Tensor | None) -> float:
        """The step's FLOPs relative to a step on all patches, if the reward needs them."""
        if self._reward.name != "progress" or keep is None:
            return 1.0
        return self.run.step_flops(keep) / self.run.step_flops()
