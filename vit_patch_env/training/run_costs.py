"""FLOPs of a run's steps by the number of patches, without the run."""

from collections.abc import Callable

from torch import Tensor

from vit_patch_env.training.flop_meter import OBSERVATION, VALIDATION, FlopMeter, Work
from vit_patch_env.training.flops import uncountable

N_STAGES = 12
"""Equal parts of a run, in each of which the model's rate is looked up."""


class RunCosts:
    """What runs of a model are charged: training steps, observations and measured losses.

    Args:
        meter: of the model, with any weights.
        images: normalised, (batch, channels, height, width); the shape counts, unless the number of
            tokens depends on the images.
        n_patches: of an image.
        validation_images: whose loss is measured; 0 for none.
        every: steps between measurements.
        overhead: FLOPs that each step is charged besides its own.
    """

    def __init__(
        self,
        meter: FlopMeter,
        images: Tensor,
        *,
        n_patches: int,
        validation_images: int = 0,
        every: int = 1,
        overhead: int = 0,
    ) -> None:
        self._meter = meter
        self._images = images
        self.n_patches = n_patches
        self._validation_images = validation_images
        self._every = every
        self._overhead = overhead
        train_rate: Callable[[float], float] | None = getattr(meter.model, "train_rate", None)
        self._rates: list[float | None] = [
            None if train_rate is None else float(train_rate(stage / N_STAGES))
            for stage in range(N_STAGES)
        ]

    @property
    def of_images(self) -> bool:
        """Whether the number of tokens, and so each cost, depends on the images."""
        return bool(getattr(self._meter.model, "data_dependent", False))

    def least_step(self, n_patches: int) -> int:
        """What a step on so many patches is charged, where that is least, with its observation."""
        return min(self._train(n_patches)) + self._flops(OBSERVATION) + self._overhead

    def shares(self, n_patches: int) -> list[float]:
        """FLOPs of a training step over those of one on all patches, in each part of a run."""
        pairs = zip(self._train(n_patches), self._train(self.n_patches), strict=True)
        return [few / all_patches for few, all_patches in pairs]

    def charged(self, n_patches: int) -> float:
        """What a step on so many patches is charged, over one on all, on average over a run."""
        others = self._flops(OBSERVATION) + self._overhead
        few, full = (sum(self._train(n)) / N_STAGES + others for n in (n_patches, self.n_patches))
        return few / full

    def most_steps(self, total: int) -> int:
        """The most steps that so many FLOPs can pay for: on one patch."""
        return self._n_steps(total, self.least_step(1))

    def expected_steps(self, total: int, n_patches: int) -> int:
        """Steps on so many patches that so many FLOPs pay for."""
        others = self._flops(OBSERVATION) + self._overhead
        per_flop = sum(1 / (train + others) for train in self._train(n_patches))
        return self._n_steps(total, N_STAGES / per_flop)

    def _n_steps(self, total: int, step: float) -> int:
        """Steps after which the FLOPs are used up, at least one.

        The first measurement is before the first step. Integers are exact, as budgets are.
        """
        measurement = 0
        if self._validation_images:  # rounded down, for an upper bound
            measurement = self._validation_images * self._flops(VALIDATION) // len(self._images)
        cycle = self._every * step + measurement
        n_cycles, rest = divmod(total - measurement, cycle)
        return max(1, int(n_cycles * self._every + min(-(-rest // step), self._every)))

    def _train(self, n_patches: int) -> list[int]:
        """FLOPs of a training step on so many patches, in each part of a run."""
        n_keep = None if n_patches == self.n_patches else n_patches
        return [self._flops(Work("train", n_keep, rate)) for rate in self._rates]

    def _flops(self, work: Work) -> int:
        """FLOPs of a piece of work.

        Raises:
            ValueError: if they cannot be counted, or a training step has none.
        """
        try:
            flops = self._meter.flops(work, self._images, "reward")
        except Exception as error:  # a user's model may raise anything
            raise uncountable(error) from error
        if work.name == "train" and not flops:
            raise uncountable("0 FLOPs per step")
        return flops
