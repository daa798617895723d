"""Bayesian linear regression with unknown noise variance, for Thompson sampling."""

import math

import numpy as np
import torch
from torch import Tensor, nn


class BayesianRegression(nn.Module):
    """Posterior of weights w in y = w·x + noise: normal, with an inverse-gamma noise variance.

    Conjugate updates (Bishop 2006, section 3.3; Riquelme et al. 2018, arXiv:1802.09127, for its
    use in Thompson sampling).

    Args:
        prior_mean: of the weights, (n_features,).
        prior_precision: of the weights, relative to the noise's; the lower, the wider the prior.

    Attributes:
        n_seen: number of observations, discounted by forgetting.
    """

    prior_mean: Tensor
    precision: Tensor  # (n_features, n_features)
    moment: Tensor  # (n_features,), the sum of x * error, with the prior mean's errors
    squares: Tensor  # (), the sum of the squared errors
    n_seen: Tensor  # ()

    def __init__(self, prior_mean: Tensor, prior_precision: float) -> None:
        super().__init__()
        n_features = len(prior_mean)
        self.register_buffer("prior_mean", prior_mean.to(torch.float64))
        self.prior_precision = prior_precision
        prior = prior_precision * torch.eye(n_features, dtype=torch.float64)
        self.register_buffer("precision", prior)
        self.register_buffer("moment", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros((), dtype=torch.float64))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.float64))

    def update(self, x: Tensor, y: float, forgetting: float = 1.0) -> None:
        """Update the posterior with one observation.

        Args:
            x: features (n_features,).
            y: target.
            forgetting: factor on the weight of earlier observations, in (0, 1].
        """
        x = x.to(torch.float64)
        error = y - float(self.prior_mean @ x)
        prior = self.prior_precision * torch.eye(len(x), dtype=torch.float64)
        self.precision.copy_(prior + forgetting * (self.precision - prior) + torch.outer(x, x))
        self.moment.copy_(forgetting * self.moment + error * x)
        self.squares.copy_(forgetting * self.squares + error * error)
        self.n_seen.copy_(forgetting * self.n_seen + 1)

    def mean(self) -> Tensor:
        """Posterior mean of the weights, (n_features,) float64."""
        return self.prior_mean + self._shift()

    def noise_variance(self) -> tuple[float, float]:
        """Shape and scale of the inverse-gamma posterior of the noise variance."""
        explained = self.moment @ self._shift()
        scale = 1e-4 + 0.5 * (self.squares - explained).clamp(min=0)
        return 1.0 + 0.5 * float(self.n_seen), float(scale)

    def sample(self, rng: np.random.Generator) -> Tensor:
        """Weights (n_features,) float64 sampled from the posterior."""
        shape, scale = self.noise_variance()
        deviation = 1 / math.sqrt(rng.gamma(shape, 1 / scale))
        normal = torch.from_numpy(rng.standard_normal((len(self.moment), 1)))
        spread: Tensor = torch.linalg.solve_triangular(self._factor().T, normal, upper=True)
        return self.mean() + deviation * spread[:, 0]

    def _shift(self) -> Tensor:
        """Difference (n_features,) of the posterior mean from the prior mean."""
        shift: Tensor = torch.cholesky_solve(self.moment[:, None], self._factor())
        return shift[:, 0]

    def _factor(self) -> Tensor:
        """Lower Cholesky factor of the precision."""
        factor: Tensor = torch.linalg.cholesky(self.precision)
        return factor
