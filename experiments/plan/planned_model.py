"""The model of a plan, without memory for its weights: its FLOPs and its activations."""

from typing import Any

import torch
from torch import nn

from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.plan.activations import activation_bytes
from vit_patch_env.experiments.plan.memory import gradient_bytes
from vit_patch_env.models import make_model
from vit_patch_env.models.contract import check_contract
from vit_patch_env.system.torch_state import DrawingFrom, float32_by_default
from vit_patch_env.training.flop_meter import Work
from vit_patch_env.training.flops import FlopCount
from vit_patch_env.training.precision import Precision
from vit_patch_env.training.run_costs import N_STAGES
from vit_patch_env.training.trainer import rate_option


class PlannedModel:
    """A model on torch's meta device, which has shapes alone.

    Args:
        config: the model by name, its sizes, and the batch size.
        n_classes: outputs.
        channels: of the images.

    Raises:
        ArgumentError: for an unknown model, one without the contract of docs/models.md, or one
            whose number of tokens depends on the images.

    Attributes:
        model: on the meta device.
        image_shape: channels, height and width.
        n_patches: of an image.
        n_parameters: all of them.
        gradient_bytes: of a step.
    """

    def __init__(self, config: EnvConfig, n_classes: int, channels: int) -> None:
        self.name = str(config.model)
        self.image_shape = (channels, *config.size)
        self.n_patches = config.n_patches
        self.model = self._make(config, n_classes, channels)
        if getattr(self.model, "data_dependent", False):
            raise ArgumentError(
                "model",
                "must be one whose number of tokens does not depend on the images, "
                f"got {self.name}",
            )
        self._images = torch.empty(
            config.batch_size, *self.image_shape, dtype=torch.float32, device="meta"
        )
        check_contract(
            self.model, self._images[:1].expand(2, -1, -1, -1), n_classes=n_classes,
            n_patches=self.n_patches,
        )  # fmt: skip
        self.n_parameters = sum(one.numel() for one in self.model.parameters())
        self.gradient_bytes = gradient_bytes(self.model)
        self._counter = FlopCount(self.model)
        self._known: dict[Work, int] = {}

    def _make(self, config: EnvConfig, n_classes: int, channels: int) -> Any:
        with DrawingFrom(torch.Generator()), torch.device("meta"), float32_by_default:
            model: nn.Module = make_model(
                config.model, n_classes=n_classes, channels=channels, **config.sizes
            )
        return model.to("meta")  # a function of the user's may name a device itself

    def rate(self, progress: float) -> float | None:
        """The share of tokens of a model that changes it over a run, in that stage of the run."""
        train_rate = getattr(self.model, "train_rate", None)
        stage = int(N_STAGES * progress)
        return None if train_rate is None else float(train_rate(stage / N_STAGES))

    def flops(self, n_keep: int, rate: float | None) -> int:
        """FLOPs of a training step on so many patches of a batch.

        Args:
            n_keep: patches kept.
            rate: of a point of the run.

        Raises:
            ArgumentError: if they cannot be counted on shapes.
        """
        work = Work("train", None if n_keep == self.n_patches else n_keep, rate)
        if work not in self._known:
            try:
                flops = self._counter.train_step(
                    self._images, work.n_keep, **rate_option(work.rate)
                )
            except Exception as error:  # a user's model may raise anything
                raise self._needs_values(error) from error
            if not flops:
                raise self._needs_values("0 FLOPs per step")
            self._known[work] = flops
        return self._known[work]

    def activations(self, n_images: int, n_keep: int, precision: Precision) -> int:
        """Bytes that a training step saves for its backward pass, at most in a run.

        Args:
            n_images: of the batch on one device.
            n_keep: patches kept.
            precision: device, and type of the matrix products.

        Raises:
            ArgumentError: if they cannot be counted on shapes.
        """
        kept = None if n_keep == self.n_patches else n_keep
        rates = [self.rate(stage / N_STAGES) for stage in range(N_STAGES)]
        rate = max((one for one in rates if one is not None), default=None)
        try:
            return activation_bytes(
                self.model, self.image_shape, n_images, kept, precision, rate=rate
            )
        except InputError:
            raise
        except Exception as error:  # a user's model may raise anything
            raise self._needs_values(error) from error

    def _needs_values(self, reason: object) -> ArgumentError:
        first, *_ = str(reason).splitlines() or [type(reason).__name__]
        return ArgumentError(
            "model", f"must be one that runs on shapes without values, got {self.name}: {first}"
        )
