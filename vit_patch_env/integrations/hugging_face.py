"""A callback for Hugging Face's `Trainer`."""

from contextlib import ExitStack
from typing import Any

from vit_patch_env.checks import InputError
from vit_patch_env.integrations.schedule import PatchSchedule
from vit_patch_env.integrations.training_patches import TrainingPatches

try:
    import accelerate  # noqa: F401  (which Trainer needs)
    from transformers import TrainerCallback
except ImportError as missing:
    raise ImportError(
        "vit_patch_env.integrations.hugging_face needs transformers and accelerate: "
        "pip install 'vit-patch-env[hf]'"
    ) from missing

_STATE = "patch_schedule"
"""What the schedule's state is called in a checkpoint's `trainer_state.json`."""


class PatchScheduleCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Trains a `Trainer`'s model on the patches of a schedule.

    ```python
    model = select_patches(AutoModelForImageClassification.from_pretrained(name))
    schedule = PatchSchedule(n_patches=model.n_patches, total_steps=1000)
    trainer = Trainer(
        model,
        TrainingArguments(max_steps=len(schedule), ...),
        callbacks=[PatchScheduleCallback(schedule)],
        ...
    )
    ```

    All batches of a step, whose gradients are accumulated, have the same number of patches, and a
    run that is resumed from a checkpoint has the patches that it would have had. Evaluations use
    all patches. A budget of seconds, which ends the training, excludes them. The learning rate of
    a budget of FLOPs or seconds is
    `optimizers=(optimizer, LambdaLR(optimizer, schedule.learning_rate))`.

    Args:
        schedule: of the patches; `max_steps` is its length, except for a budget of seconds.
        per_image: whether each image of a batch has patches of its own.

    Raises:
        ValueError: for another kind of value; when training begins, for a model that is not of
            `select_patches`, or a number of steps or patches that is not the schedule's.
    """

    def __init__(self, schedule: PatchSchedule, per_image: bool = False) -> None:
        self._patches = TrainingPatches(schedule, per_image)
        self._schedule = schedule
        self._evaluation = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the model and the number of steps; resume the clock of a budget of seconds."""
        self._patches.check_steps(state.max_steps, "max_steps")
        self._patches.attach(kwargs["model"])
        if state.global_step and self._schedule.n_steps is None:
            if _STATE not in state.stateful_callbacks:
                raise InputError("a budget of seconds must be resumed from a run with it, got none")
            self._schedule.load_state_dict(state.stateful_callbacks[_STATE])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Use the step's patches."""
        self._evaluation.close()
        self._patches.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a budget of seconds, and stop its clock during an evaluation."""
        self._patches.check_called()
        if self._patches.is_over(state.global_step):
            control.should_training_stop = True
        if self._schedule.n_steps is None:
            state.stateful_callbacks[_STATE] = self._schedule.state_dict()
        self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock during an evaluation."""
        if control.should_evaluate:
            self._evaluation.enter_context(self._schedule.paused())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the model as it was."""
        self._patches.detach()
