"""Creates episodes from the arguments of the environment."""

import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vit_patch_env.checks import (
    ArgumentError,
    InputError,
    InputWarning,
    check_integer,
    counted,
    named,
    shown,
)
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.augment import Mixing, check_augmentation, make_augmentation
from vit_patch_env.data.batches import Batch, BatchStream, Normalize, Preparation
from vit_patch_env.data.datasets import check_dataset, load_dataset
from vit_patch_env.data.images import ALL
from vit_patch_env.data.splits import ImageData
from vit_patch_env.data.texts import TextData, TokenIds
from vit_patch_env.episode import Episode, RewardSettings
from vit_patch_env.model_factory import ModelFactory
from vit_patch_env.models.families.hugging_face_config import config_of
from vit_patch_env.models.model_names import family_of, is_own
from vit_patch_env.models.weights.card import WeightsCard
from vit_patch_env.observation import make_observation
from vit_patch_env.patches.shares import COST_SHARES, counts_at
from vit_patch_env.penalty import StepKind
from vit_patch_env.step_kinds import kinds_in_flops, kinds_in_seconds, kinds_in_steps
from vit_patch_env.system.imported import imported
from vit_patch_env.system.launch import follows, is_one_of_several, launch
from vit_patch_env.system.starting import STOP_SIGNALS
from vit_patch_env.system.torch_state import (
    float32_by_default,
    on_cpu,
    own_torch_state,
)
from vit_patch_env.training.budget import Budget
from vit_patch_env.training.flop_meter import FlopMeter, Work
from vit_patch_env.training.flops import ReferenceCost
from vit_patch_env.training.graphed import graphs_for
from vit_patch_env.training.loss import CrossEntropy, Loss, UserLoss, balanced_weights
from vit_patch_env.training.precision import own_device, resolve_device, resolve_precision
from vit_patch_env.training.ranks import END, Ranks
from vit_patch_env.training.run import TrainingRun
from vit_patch_env.training.run_costs import RunCosts
from vit_patch_env.training.schedule import learning_rate_factor
from vit_patch_env.training.step_times import step_times
from vit_patch_env.training.trainer import Trainer


class EpisodeFactory:
    """Loads the images and creates episodes with fresh weights.

    Args:
        config: the arguments of the environment.

    Attributes:
        config: the arguments.
        precision: device, and type of the matrix products.
        observation: of the agent.
        models: creates the models.

    Raises:
        ValueError: for an unusable data set, model or device, or sizes that do not fit into memory.
    """

    def __init__(self, config: EnvConfig) -> None:
        if isinstance(config.dataset, str):
            check_dataset(config.dataset, config.data_dir)
        elif not isinstance(config.dataset, ImageData | TextData):
            raise ArgumentError(
                "dataset",
                f"must be a name, an ImageData or a TextData, got {shown(config.dataset)}",
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
        if config.budget != "flops":
            check_integer(1, epochs=config.epochs)
            if config.step_overhead:
                raise ArgumentError(
                    "step_overhead",
                    f"is of a budget of FLOPs, got {named('budget')} {config.budget} and "
                    f"{config.step_overhead}",
                )
        self.config = config
        device = resolve_device(config.device)
        if config.distributed:
            device = self._check_launch(device)
        if config.cuda_graphs and device.type != "cuda":
            raise ArgumentError("cuda_graphs", f"needs a CUDA device, got {device.type}")
        self.precision = resolve_precision(config.precision, device)
        self.observation = make_observation(config.observation, config.observe_images)
        loss = config.loss
        self._user_loss = imported("loss", loss) if isinstance(loss, str) else loss
        self.models = ModelFactory(config, self.precision, self.observation)
        # Loaded at first use, so that creating and pickling an environment is cheap.
        self._data: ImageData | TextData | None = None
        self._reference: ReferenceCost | None = None
        self._costs: RunCosts | None = None
        self._context: dict[str, Any] | None = None
        self._n_parameters: int | None = None
        self._known_flops: dict[Work, int] = {}  # shared by all episodes
        self._ranks: Ranks | None = None

    @property
    def data(self) -> ImageData | TextData:
        """The images, or texts, and labels, on the training device; loaded at first use."""
        if self._data is None:
            self.models.read_weights()  # before the images, whose classes they must have
            with own_torch_state(), float32_by_default, on_cpu():
                self._data = self._load_data().to(self.precision.device)
        return self._data

    @property
    def statistics(self) -> dict[str, Any]:
        """Statistics that identify the items, and those that normalise them, as plain data."""
        data = self.data
        if isinstance(data, TextData):
            return {"texts": data.digest()}
        mean, std = self._normalization(data)
        values = {"channel_mean": data.channel_mean, "normalize_mean": mean, "normalize_std": std}
        return {name: [round(one, 6) for one in value] for name, value in values.items()}

    def weights_card(self, model: nn.Module) -> WeightsCard:
        """What a file of the weights of a model of an episode carries with it."""
        data, config = self.data, self.config
        assert isinstance(data, ImageData)
        mean, std = self._normalization(data)
        of_library = config.model if isinstance(config.model, str) else type(model).__name__
        return WeightsCard(
            model=of_library,
            keep_rate=config.keep_rate,
            **{**config.sizes, "image_size": config.size},
            channels=data.channels,
            classes=tuple(data.classes),
            mean=mean,
            std=tuple(one or 1.0 for one in std),  # of a channel without variation: centred
            resize=config.resize,
            interpolation=config.interpolation or "bilinear",
            model_config=config_of(model) if family_of(config.model) == "hf" else None,
        )

    def free(self) -> None:
        """Free the images; they are loaded again when needed."""
        self._data = self._reference = self._costs = self._context = None

    @property
    def steps_per_epoch(self) -> int:
        """Training batches, and so environment steps, per epoch."""
        return len(self.data.train.images) // self.config.batch_size

    @property
    def budget_steps(self) -> int:
        """Steps of `epochs` passes over the training images, at least one."""
        return max(round(self.config.epochs * self.steps_per_epoch), 1)

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

    @property
    def context(self) -> dict[str, Any]:
        """What is known of this training before it begins: plain data.

        With run features, all that distinguishes it from others; otherwise its length, if that is
        known.
        """
        if not self.observation.with_run:
            return {} if self.config.budget == "seconds" else {"budget_steps": self.budget_steps}
        if self._context is None:
            budget_steps, step_costs = self._in_steps()
            if self._n_parameters is None:
                model = self.models.same(len(self.data.classes), self.data.channels)
                self._n_parameters = _n_parameters(model)
            self._context = {
                "budget_steps": budget_steps,
                "n_images": len(self.data.train.labels),
                "n_classes": len(self.data.classes),
                "n_patches": self.config.n_patches,
                "n_parameters": self._n_parameters,
                "step_costs": step_costs,
            }
        return dict(self._context)

    def _in_steps(self) -> tuple[int, tuple[float, ...]]:
        """The budget in steps on all patches, and the costs of steps on `COST_SHARES` of them.

        These are over the cost of a step on all. For a budget of seconds, steps are timed.
        """
        budget, n_patches = self.config.budget, self.config.n_patches
        counts = counts_at(COST_SHARES, n_patches)
        if budget == "seconds":
            launched = launch() if self.config.distributed else None
            part = ALL if launched is None else slice(self.config.batch_size // launched.size)
            times = step_times(self._make(0, 0, part=part).run, counts, n_patches)
            costs = tuple(seconds / times[-1] for seconds in times)
            return max(round(self._new_budget().total / times[-1]), 1), costs
        costs = (1.0,) * len(counts)
        if budget == "flops":
            costs = tuple(self._run_costs.charged(n) for n in counts)
        return self.budget_steps, costs

    def _check_launch(self, device: torch.device) -> torch.device:
        """The device of this process among those that train together."""
        launched, batch_size = launch(), self.config.batch_size
        if launched is None:
            raise ArgumentError(
                "distributed",
                "needs the processes of torchrun, such as torchrun --nproc-per-node 2 script.py, "
                "got a single one",
            )
        if device.type == "cuda" and str(self.config.device) not in ("auto", "cuda"):
            raise ArgumentError(
                "device",
                f"must be auto, cuda or cpu with {named('distributed')}, which gives each process "
                f"a device, got {self.config.device}",
            )
        if batch_size % launched.size:
            raise ArgumentError(
                "batch_size",
                f"is that of all processes together, and must be divisible by their number, "
                f"{launched.size}, got {batch_size}",
            )
        return own_device(device)

    @property
    def follows(self) -> bool:
        """Whether another process has the agent, and this one does what it says."""
        return self.config.distributed and follows()

    def follow(self) -> None:
        """Do what rank 0 says, until it says that it ends: signals are for it to answer.

        Raises:
            LostRankError: if it ends otherwise.
        """
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        warnings.simplefilter("ignore", InputWarning)  # rank 0 shows them
        ranks, episode = self._connected(), None
        while (command := ranks.hear()).name != END:
            if command.name == "make":
                weights_seed, stream_seed = command.arguments
                episode = self._make(weights_seed, stream_seed, ranks)
            else:
                assert episode is not None
                episode.follow(command)
        ranks.leave()

    def _connected(self) -> Ranks:
        """The processes that train together."""
        if self._ranks is None:
            self._ranks = Ranks.of_process(self.precision.device)
            self._ranks.take()
        return self._ranks

    @own_torch_state()
    def make(self, weights_seed: int, stream_seed: int) -> Episode:
        """An episode with fresh weights, or those that training starts from."""
        if not (self.config.distributed and is_one_of_several()):
            return self._make(weights_seed, stream_seed)
        ranks = self._connected()
        with ranks.doing("make", weights_seed, stream_seed):
            return self._make(weights_seed, stream_seed, ranks)

    @own_torch_state()
    def _make(
        self,
        weights_seed: int,
        stream_seed: int,
        ranks: Ranks | None = None,
        part: slice = ALL,
    ) -> Episode:
        """An episode of this process alone, or one that the others make as well.

        Args:
            weights_seed: of the weights.
            stream_seed: of the batches.
            ranks: the processes that train together; None for this one alone.
            part: of each batch, for this one alone.
        """
        self.models.read_weights()  # before the images
        config, data = self.config, self.data
        if ranks is not None:
            ranks.meet()  # with their images
            ranks.n_episodes += 1
            part = ranks.part(config.batch_size)
        started = time.perf_counter()
        normalize = self._preparation()
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
            part=part,
        )
        model = self.models.new(
            len(data.classes), data.channels, weights_seed, self._blank_images(2)
        )
        trainer = Trainer(
            model,
            self.precision,
            learning_rate=config.learning_rate,
            schedule=partial(
                learning_rate_factor,
                step_share=1 / self.budget_steps,
                warmup=config.warmup_epochs / config.epochs,
                schedule=config.schedule,
            ),
            optimizer=config.optimizer,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            decay_norms=config.decay_norms,
            layer_decay=config.layer_decay,
            loss=self._loss(ranks),
            clip_grad_norm=config.clip_grad_norm,
            accumulate=config.accumulate,
            ema=config.ema,
            compiled=config.compile,
            graphs=graphs_for(model, self.precision.device) if config.cuda_graphs else None,
            ranks=ranks,
            unused=not is_own(config.model),
        )
        self._n_parameters = _n_parameters(trainer.model)
        run = TrainingRun(
            trainer,
            stream,
            observation=self.observation,
            budget=self._new_budget(),
            known_flops=self._known_flops,
            ranks=ranks,
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
            grid=config.grid if config.per_image else None,
            ranks=ranks,
        )
        run.stopwatch.seconds["reset"] = time.perf_counter() - started
        return episode

    def _load_data(self) -> ImageData | TextData:
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
                interpolation=config.interpolation or "bilinear",
                check_classes=self._check_classes,
            )
        else:
            self._check_classes(data.classes)
        if data.size != config.size:
            raise ArgumentError(
                "image_size",
                f"must be that of the {named('dataset')}, {[*data.size]}, got {config.image_size}",
            )
        check_integer(1, len(data.train.images), batch_size=self.config.batch_size)
        self._check_channels(data.channels)
        if config.class_weights == "balanced":
            balanced_weights(data.train.labels, data.classes)
        if config.reward == "validation" and not len(data.val.images):
            raise InputError(f"{named('reward')} validation needs validation images, got 0 of them")
        self.models.check_data(
            len(data.classes), data.channels, data.blank(2, self.precision.device)
        )
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

    def _loss(self, ranks: Ranks | None) -> Loss:
        """The training loss, of a part of each batch where others have the rest."""
        config, data = self.config, self.data
        device = self.precision.device
        if self._user_loss is not None:
            return self._checked_loss(len(data.classes))
        weights = None
        if config.class_weights == "balanced":
            weights = balanced_weights(data.train.labels, data.classes)
        elif config.class_weights is not None:
            weights = torch.tensor(config.class_weights, dtype=torch.float32, device=device)
        return CrossEntropy(config.label_smoothing, weights, ranks)

    def _checked_loss(self, n_classes: int) -> UserLoss:
        """The user's loss, if it works for so many classes."""
        config = self.config
        assert self._user_loss is not None
        return UserLoss(
            self._user_loss,
            n_classes=n_classes,
            soft=config.mixup > 0 or config.cutmix > 0,
            device=self.precision.device,
        )

    def _check_classes(self, classes: Sequence[str]) -> None:
        """Refuse weights of a model, weights of classes or a loss for another number of classes."""
        self.models.check_classes(classes)
        n_classes, weights = len(classes), self.config.class_weights
        if isinstance(weights, tuple) and len(weights) != n_classes:
            raise ArgumentError(
                "class_weights",
                f"must be {counted(n_classes, 'number')}, one per class, got {len(weights)}: "
                f"{shown(weights)}",
            )
        if self._user_loss is not None:
            self._checked_loss(n_classes)

    def _preparation(self) -> Preparation:
        """What maps images or texts to the model's input."""
        data, device = self.data, self.precision.device
        if isinstance(data, TextData):
            return TokenIds(device)
        return Normalize(*self._normalization(data), device)

    def _normalization(self, data: ImageData) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel: the given ones, or those of the training images."""
        config = self.config
        return (
            data.channel_mean if config.mean is None else config.mean,
            data.channel_std if config.std is None else config.std,
        )

    def _validation(self, normalize: Preparation) -> list[Batch]:
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
            return Budget("flops", self._budget_flops, self._overhead)
        return Budget("epochs", self.budget_steps)

    @property
    def _budget_flops(self) -> int:
        """A budget of FLOPs: those of `epochs` passes of the reference model on all patches."""
        return self.budget_steps * (self._reference_cost.step(None) + self._overhead)

    @property
    def _overhead(self) -> int:
        """FLOPs that each step is charged besides its own."""
        share = self.config.step_overhead
        return round(share * self._reference_cost.step(None)) if share else 0

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
            config, data, images = self.config, self.data, self._blank_images()
            n_val = len(data.val.labels)
            measured = config.reward == "validation"
            self._costs = RunCosts(
                FlopMeter(
                    self.models.same(len(data.classes), data.channels),
                    self.observation.function,
                    known=self._known_flops,
                ),
                images,
                n_patches=config.n_patches,
                validation_images=min(config.reward_images, n_val) if measured else 0,
                every=config.reward_every,
                overhead=self._overhead,
            )
        return self._costs

    @property
    def _reference_cost(self) -> ReferenceCost:
        """The cost of a SimpleViT of these sizes, or of a model that is not of this package."""
        if self._reference is None:
            data = self.data
            make = partial(self.models.reference, len(data.classes), data.channels)
            self._reference = ReferenceCost(make, self._blank_images())
        return self._reference

    def _blank_images(self, n_images: int | None = None) -> Tensor:
        """A model's input, by default a batch whose FLOPs are counted, on the device."""
        return self.data.blank(n_images or self.config.batch_size, self.precision.device)


def _n_parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())
