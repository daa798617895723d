"""A callback for Lightning's `Trainer`."""

from contextlib import ExitStack
from typing import Any

from vit_patch_env.integrations.schedule import PatchSchedule
from vit_patch_env.integrations.training_patches import TrainingPatches

try:
    from lightning.pytorch import Callback
except ImportError as missing:
    raise ImportError(
        "vit_patch_env.integrations.lightning needs lightning: "
        "pip install 'vit-patch-env[lightning]'"
    ) from missing


class PatchScheduleCallback(Callback):  # type: ignore[misc, unused-ignore]
    """Trains the model of a `LightningModule` on the patches of a schedule.

    ```python
    class Classifier(LightningModule):
        def __init__(self):
            super().__init__()
            self.vit = select_patches(timm.create_model("vit_small_patch16_224"))

        def training_step(self, batch, index):
            images, labels = batch
            return cross_entropy(self.vit(images), labels)


    trainer = Trainer(max_steps=len(schedule), callbacks=[PatchScheduleCallback(schedule)])
    ```

    A step is one of the optimizer: batches whose gradients are accumulated have the same number of
    patches, and a run that is resumed from a checkpoint has the patches that it would have had.
    Validation, test and prediction use all patches. A budget of seconds, which ends the training,
    excludes the validation.

    Args:
        schedule: of the patches; `max_steps` is its length, except for a budget of seconds.
        per_image: whether each image of a batch has patches of its own.

    Raises:
        ValueError: for another kind of value; when training begins, for a module without a model of
            `select_patches`, or a number of steps or patches that is not the schedule's.
    """

    def __init__(self, schedule: PatchSchedule, per_image: bool = False) -> None:
        super().__init__()
        self._patches = TrainingPatches(schedule, per_image)
        self._schedule = schedule
        self._validation = ExitStack()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the model and the number of steps."""
        self._patches.check_steps(trainer.estimated_stepping_batches, "max_steps")
        self._patches.attach(pl_module)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Use the step's patches."""
        self._patches.begin(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a budget of seconds."""
        self._patches.check_called()
        if self._patches.is_over(trainer.global_step):
            trainer.should_stop = True

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock of a budget of seconds."""
        self._validation.enter_context(self._schedule.paused())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Let the clock run again."""
        self._validation.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the model as it was."""
        self._patches.detach()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the model as it was."""
        self._patches.detach()

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state."""
        return self._schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume with the schedule's state."""
        self._schedule.load_state_dict(state_dict)
