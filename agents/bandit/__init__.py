"""PatchBandit: a contextual bandit that picks how many patches, and learns a score for each."""

from agents.bandit.bandit import PatchBandit
from agents.bandit.policies import BanditPolicy
from agents.bandit.regression import BayesianRegression

__all__ = ["BanditPolicy", "BayesianRegression", "PatchBandit"]
