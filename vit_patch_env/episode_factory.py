"""Creates episodes from the arguments of the environment."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, InputError, check_integer, counted, named, shown
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.augment import Mixing, check_augmentation, make_augmentation
from vit_patch_env.data.batches import Batch, BatchStream, Normalize
from vit_patch_env.data.datasets import check_dataset, load_dataset
from vit_patch_env.data.splits import ImageData
from vit_patch_env.episode import Episode, RewardSettings
from vit_patch_env.models import check_model, make_model, model_class
from vit_patch_env.models.contract import check_contract
from vit_patch_env.models.model_names import family_of, is_own
from vit_patch_env.observation import check_observable, make_observation
from vit_patch_env.penalty import StepKind
from vit_patch_env.step_kinds import kinds_in_flops, kinds_in_seconds, kinds_in_steps
from vit_patch_env.system.memory import check_fits
from vit_patch_env.system.torch_state import (
    DrawingFrom,
    float32_by_default,
    lending_global_state,
    on_cpu,
    own_torch_state,
)
from vit_patch_env.training.budget import Budget
from vit_patch_env.training.flop_meter import FlopMeter, Work
from vit_patch_env.training.flops import ReferenceCost
from vit_patch_env.training.precision import resolve_device, resolve_precision
from vit_patch_env.training.run import TrainingRun
from vit_patch_env.training.run_costs import RunCosts
from vit_patch_env.training.schedule import learning_rate_factor
from vit_patch_env.training.trainer import Trainer


class EpisodeFactory:
    """Loads the images and creates episodes with fresh weights.

    Args:
        config: the arguments of the environment.

    Attributes:
        config: the arguments.
        precision: device, and type of the matrix products.
        observation: of the agent.

    Raises:
        ValueError: for an unusable data set, model or device, or sizes that do not fit into memory.
    """

    def __init__(self, config: EnvConfig) -> None:
        if isinstance(config.dataset, str):
            check_dataset(config.dataset, config.data_dir)
        elif not isinstance(config.dataset, ImageData):
            raise ArgumentError(
                "dataset", f"must be a name or an ImageData, got {shown(config.dataset)}"
            )
        if isinstance(config.model, str):
            check_model(config.model, config.keep_rate)
            if is_own(config.model):
                kind = model_class(config.model)
                check_observable(config.observation, kind, config.depth, config.model)
        elif not callable(config.model):
            raise ArgumentError(
                "model", f"must be a name, a module or a function, got {shown(config.model)}"
            )
        if not (isinstance(config.augment, str) or callable(config.augment)):
            raise ArgumentError(
                "augment", f"must be a name or a function, got {shown(config.augment)}"
            )
        if (config.budget == "seconds") != (config.seconds is not None):
            raise ArgumentError(
                "seconds",
                f"must be given if and only if {named('budget')} is seconds, "
                f"got {named('budget')} {config.budget} and {named('seconds')} {config.seconds}",
            )
        self.config = config
        device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, device)
        self.observation = make_observation(config.observation, config.observe_images)
        self._check_memory()
        self._unchecked_model = not is_own(config.model)
        # Loaded at first use, so that creating and pickling an environment is cheap.
        self._data: ImageData | None = None
        self._reference: ReferenceCost | None = None
        self._costs: RunCosts | None = None
        self._known_flops: dict[Work, int] = {}  # shared by all episodes

    @property
    def data(self) -> ImageData:
        """The images and labels, on the training device; loaded at first use."""
        if self._data is None:
            with own_torch_state(), float32_by_default, on_cpu():
                self._data = self._load_data().to(self.precision.device)
        return self._data

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, for normalisation: the given one, or that of the training images."""
        return self.data.channel_mean if self.config.mean is None else self.config.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, for normalisation: the given one, or that of the training images."""
        return self.data.channel_std if self.config.std is None else self.config.std

    def free(self) -> None:
        """Free the images; they are loaded again when needed."""
        self._data = self._reference = self._costs = None

    @property
    def steps_per_epoch(self) -> int:
        """Training batches, and so environment steps, per epoch."""
        return len(self.data.train.images) // self.config.batch_size

    @property
    def budget_steps(self) -> int:
        """Steps of `epochs` passes over the training images."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def expected_steps(self) -> int:
        """Steps per episode; for a budget of FLOPs, on `n_patches_desired` patches (None: all)."""
        config = self.config
        if config.budget != "flops":
            return self.budget_steps
        n_patches = config.n_patches_desired or config.n_patches
        return self._run_costs.expected_steps(self._budget_flops, n_patches)

    @property
    def max_steps(self) -> int:
        """Upper bound on the steps of an episode."""
        if self.config.budget == "flops":
            return self._run_costs.most_steps(self._budget_flops)
        return self.budget_steps if self.config.budget == "epochs" else sys.maxsize

    @own_torch_state()
    def make(self, weights_seed: int, stream_seed: int) -> Episode:
        """An episode with fresh weights."""
        config, data = self.config, self.data
        started = time.perf_counter()
        normalize = Normalize(self.mean, self.std, self.precision.device)
        stream = BatchStream(
            *data.train,
            normalize,
            batch_size=self.config.batch_size,
            seed=stream_seed,
            crop_padding=config.crop_padding,
            flip=data.flip if config.flip is None else config.flip,
            augmentation=make_augmentation(config.augment),
            mixing=Mixing(
                random_erasing=config.random_erasing,
                mixup=config.mixup,
                cutmix=config.cutmix,
                n_classes=len(data.classes),
            ),
        )
        trainer = Trainer(
            self._new_model(weights_seed),
            self.precision,
            learning_rate=config.learning_rate,
            schedule=partial(
                learning_rate_factor,
                step_share=1 / self.budget_steps,
                warmup=config.warmup_epochs / config.epochs,
                schedule=config.schedule,
            ),
            optimizer=config.optimizer,
            weight_decay=config.weight_decay,
            label_smoothing=config.label_smoothing,
        )
        run = TrainingRun(
            trainer,
            stream,
            observe=self.observation.function,
            budget=self._new_budget(),
            known_flops=self._known_flops,
        )
        if config.budget == "flops" or config.reward == "progress":
            run.check_flops()
        episode = Episode(
            run,
            data,
            observation=self.observation,
            reward=RewardSettings(
                config.reward,
                config.n_patches_desired,
                config.alpha,
                config.reward_every,
            ),
            validation=self._validation(normalize) if config.reward == "validation" else [],
            step_kinds=self._step_kinds,
        )
        run.stopwatch.seconds["reset"] = time.perf_counter() - started
        return episode

    def _check_memory(self) -> None:
        """Refuse sizes with which not even the weights fit into memory."""
        config = self.config
        if family_of(config.model):  # which also refuses a model that cannot work
            with torch.device("meta"):
                model = self._make_model(n_classes=2, channels=3)
            n_weights = sum(weight.numel() for weight in model.parameters())
            check_fits(16 * n_weights, f"the weights of {config.model}", self.precision.device)
            return
        if not is_own(config.model):
            return
        inner = config.heads * config.dim_head
        n_weights = config.depth * config.dim * (4 * inner + 2 * config.mlp_dim)
        n_weights += config.dim * config.patch_size**2
        n_values = self.config.n_patches * (2 * config.dim + 4 * inner + config.mlp_dim)
        # Weight, gradient and two moments of the optimizer; one image's values in one layer.
        check_fits(16 * n_weights + 4 * n_values, "a ViT of these sizes", self.precision.device)

    def _load_data(self) -> ImageData:
        config = self.config
        data = config.dataset
        if isinstance(data, str):
            data = load_dataset(
                data,
                data_dir=config.data_dir,
                image_size=config.image_size,
                train_fraction=config.train_fraction,
                val_fraction=config.val_fraction,
                skip_corrupt=config.skip_corrupt,
                resize=config.resize,
                images=config.images,
            )
        n_images, channels, *size = data.train.images.shape
        if size != [config.image_size, config.image_size]:
            raise ArgumentError(
                "image_size",
                f"must be that of the {named('dataset')}, {size}, got {config.image_size}",
            )
        check_integer(1, n_images, batch_size=self.config.batch_size)
        self._check_channels(channels)
        if config.reward == "validation" and not len(data.val.images):
            raise InputError(f"{named('reward')} validation needs validation images, got 0 of them")
        if is_own(config.model) or family_of(config.model):  # so that invalid sizes are reported
            with DrawingFrom(torch.Generator()), torch.device("meta"):
                self._make_model(len(data.classes), channels)
        return data

    def _check_channels(self, channels: int) -> None:
        """Refuse an augmentation or normalisation for another number of channels."""
        check_augmentation(self.config.augment, channels)
        for name in ("mean", "std"):
            values = getattr(self.config, name)
            if values is not None and len(values) != channels:
                numbers = counted(channels, "number")
                raise ArgumentError(
                    name, f"must be {numbers}, one per channel, got {len(values)}: {shown(values)}"
                )

    def _validation(self, normalize: Normalize) -> list[Batch]:
        """The validation images that the reward is measured on, normalised, in batches."""
        images, labels = self.data.val
        n_images, device = self.config.reward_images, self.precision.device
        batches = zip(
            torch.split(images[:n_images].to(device), self.config.batch_size),
            torch.split(labels[:n_images], self.config.batch_size),
            strict=True,
        )
        return [Batch(normalize(images), labels) for images, labels in batches]

    def _new_budget(self) -> Budget:
        """The budget of the next episode."""
        if self.config.seconds is not None:
            return Budget("seconds", self.config.seconds)
        if self.config.budget == "flops":
            return Budget("flops", self._budget_flops)
        return Budget("epochs", self.budget_steps)

    @property
    def _budget_flops(self) -> int:
        """A budget of FLOPs: those of `epochs` passes of the reference model on all patches."""
        return self.budget_steps * self._reference_cost.step(None)

    def _step_kinds(self, fastest: Mapping[int, float]) -> list[StepKind]:
        """What the steps of an episode can be: see `vit_patch_env.penalty`.

        Args:
            fastest: seconds of the fastest steps so far, by number of patches.
        """
        config = self.config
        if config.seconds is not None:
            return kinds_in_seconds(config.seconds, fastest, self._run_costs)
        if config.budget == "flops":
            return kinds_in_flops(self._budget_flops, self._run_costs)
        if config.reward == "progress":
            return kinds_in_steps(self.budget_steps, self._run_costs)
        return [StepKind(1, config.n_patches, self.budget_steps)]

    @property
    def _run_costs(self) -> RunCosts:
        """The costs of the model that trains, with weights of its own."""
        if self._costs is None:
            config, images = self.config, self._blank_images()
            n_val = len(self.data.val.labels)
            with self._seeded(0):
                model = self._make_model(len(self.data.classes), images.shape[1])
            measured = config.reward == "validation"
            self._costs = RunCosts(
                FlopMeter(
                    model.to(images.device), self.observation.function, known=self._known_flops
                ),
                images,
                n_patches=config.n_patches,
                validation_images=min(config.reward_images, n_val) if measured else 0,
                every=config.reward_every,
            )
        return self._costs

    @property
    def _reference_cost(self) -> ReferenceCost:
        """The cost of a SimpleViT of these sizes, or of a model that is not of this package."""
        if self._reference is None:
            images = self._blank_images()
            make = partial(self._reference_model, len(self.data.classes), images.shape[1])
            self._reference = ReferenceCost(make, images)
        return self._reference

    def _blank_images(self) -> Tensor:
        """A batch whose FLOPs are counted: (batch, channels, height, width), on the device."""
        shape = self.config.batch_size, *self.data.train.images.shape[1:]
        return torch.zeros(shape, dtype=torch.float32, device=self.precision.device)

    def _reference_model(self, n_classes: int, channels: int) -> nn.Module:
        with self._seeded(0):  # as its FLOPs may depend on its weights
            if not is_own(self.config.model):
                return self._make_model(n_classes, channels).to(self.precision.device)
            return make_model(
                "simple_vit", n_classes=n_classes, channels=channels, **self._vit_options
            )

    def _new_model(self, seed: int) -> nn.Module:
        """A model with fresh weights that depend only on the seed."""
        data = self.data
        n_classes, channels = len(data.classes), data.train.images.shape[1]
        with self._seeded(seed):
            model = self._make_model(n_classes, channels)
            if self._unchecked_model:
                check_observable(
                    self.config.observation,
                    model,
                    getattr(model, "n_layers", None),
                    type(model).__name__,
                )
                check_contract(
                    model,
                    torch.zeros(2, *data.train.images.shape[1:], dtype=torch.float32),
                    n_classes=n_classes,
                    n_patches=self.config.n_patches,
                    observe=self.observation.function,
                    observation=self.config.observation,
                )
                self._unchecked_model = False
        return model

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """A context in which a model's weights depend only on the seed."""
        with own_torch_state():
            if is_own(self.config.model):
                with DrawingFrom(torch.Generator().manual_seed(seed)), on_cpu():
                    yield
                return
            # Code of others may also seed or read the global generator: it gets that one.
            with (
                lending_global_state(),
                float32_by_default,
                torch.random.fork_rng(devices=[]),
            ):
                torch.default_generator.manual_seed(seed)
                yield

    def _make_model(self, n_classes: int, channels: int) -> nn.Module:
        config = self.config
        return make_model(
            config.model,
            keep_rate=config.keep_rate,
            n_classes=n_classes,
            channels=channels,
            **self._vit_options,
        )

    @property
    def _vit_options(self) -> dict[str, int]:
        names = ("image_size", "patch_size", "dim", "depth", "heads", "dim_head", "mlp_dim")
        return {name: getattr(self.config, name) for name in names}
