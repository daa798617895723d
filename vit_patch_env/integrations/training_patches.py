"""What the callbacks for frameworks have in common: a schedule's patches in training alone."""

import inspect
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, InputError, check, counted, shown
from vit_patch_env.integrations.schedule import PatchSchedule
from vit_patch_env.models.contract import select_patches

_HOOKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
"""Of the models that are trained, one each: an interrupted training may have left its own."""


class TrainingPatches:
    """Passes a schedule's patches as `keep` to a model that a framework calls.

    Only in training mode: after `model.eval()`, and so in every evaluation and prediction, even
    after an interrupted training, the model uses all patches.

    Args:
        schedule: of the patches.
        per_image: whether each image of a batch has patches of its own.

    Raises:
        ArgumentError: for another kind of value.
    """

    def __init__(self, schedule: PatchSchedule, per_image: bool = False) -> None:
        if not isinstance(schedule, PatchSchedule):
            raise ArgumentError("schedule", f"must be a PatchSchedule, got {shown(schedule)}")
        self.schedule = schedule
        self.per_image = check(bool, per_image=per_image)
        self._step = 0
        self._keep: Tensor | None = None
        self._model: nn.Module | None = None
        self._is_called = False

    def attach(self, module: nn.Module) -> None:
        """Begin with the model that the module is or has.

        Raises:
            InputError: for a module without a model that takes patches, with several of them, or
                with another number of patches than the schedule's.
        """
        self.detach()
        model = _model_within(module)
        if model.n_patches != self.schedule.n_patches:
            raise InputError(
                f"the schedule must be of the model's {counted(model.n_patches, 'patch')}, "
                f"got one of {self.schedule.n_patches}"
            )
        grid = getattr(model, "grid", self.schedule.grid)
        if tuple(grid) != self.schedule.grid:
            raise InputError(
                f"the schedule must be of the model's grid, n_patches={tuple(grid)}, got "
                f"{self.schedule.grid}"
            )
        _remove_hook(model)
        _HOOKS[model] = model.register_forward_pre_hook(self._with_patches, with_kwargs=True)
        self._model = model

    def detach(self) -> None:
        """Leave the model as it was."""
        if self._model is not None:
            _remove_hook(self._model)
            self._model = None

    def check_steps(self, n_steps: float, name: str) -> None:
        """Refuse a framework's number of steps that is not the schedule's.

        Args:
            n_steps: of the framework.
            name: of the framework's argument.

        Raises:
            InputError: with both numbers.
        """
        if self.schedule.n_steps not in (None, n_steps):
            raise InputError(
                f"{name} must be the length of the schedule, {self.schedule.n_steps}, so that they "
                f"end together, got {n_steps}"
            )

    def begin(self, step: int) -> None:
        """Use the patches of a step from now on."""
        self._step = step
        self._is_called = False
        self.schedule.start()
        self._keep = None if self.per_image else self.schedule(step)

    def check_called(self) -> None:
        """Refuse a step that did not call the model, and so was not on the schedule's patches.

        Raises:
            InputError: naming the model.
        """
        if not self._is_called:
            raise InputError(
                f"expected a training step that calls {type(self._model).__name__}, which takes "
                "the patches to keep, got one that did not"
            )

    def is_over(self, step: int) -> bool:
        """Whether a budget of seconds, which ends by the clock, is used up."""
        return self.schedule.n_steps is None and self.schedule.progress(step) >= 1

    def _with_patches(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        """The arguments of a forward pass, with `keep` in training."""
        self._is_called |= model.training
        if not model.training or "keep" in kwargs or len(args) > 1:
            return None
        keep = self._keep
        batch = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
        if self.per_image:
            keep = self.schedule(self._step, batch_size=len(batch))
        if keep is None:
            return None
        return args, {**kwargs, "keep": keep.to(batch.device)}


def _remove_hook(model: nn.Module) -> None:
    hook = _HOOKS.pop(model, None)
    if hook is not None:
        hook.remove()


def _model_within(module: nn.Module) -> Any:
    """The only model with patches that a module is or has.

    A module that has `n_patches` itself, but no forward pass with `keep`, is looked into.
    """
    found: dict[str, nn.Module] = {}
    for name, one in module.named_modules():
        inner = any(name.startswith(f"{outer}.") or not outer for outer in found)
        takes_patches = "keep" in inspect.signature(one.forward).parameters
        if not inner and takes_patches and hasattr(one, "n_patches"):
            found[name] = one
    if not found:
        raise InputError(
            "expected a model of select_patches, whose forward pass takes the patches to keep, "
            f"got {type(module).__name__} without one"
        )
    if len(found) > 1:
        raise InputError(
            f"expected one model of select_patches, got {', '.join(found)} in "
            f"{type(module).__name__}: call each as model(images, keep=schedule(step)) instead"
        )
    return select_patches(*found.values())
