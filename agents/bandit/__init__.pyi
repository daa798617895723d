from .bandit import PatchBandit
from .options import BanditOptions
from .policies import BanditPolicy
from .regression import BayesianRegression

__all__ = ["BanditOptions", "BanditPolicy", "BayesianRegression", "PatchBandit"]
