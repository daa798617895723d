"""PatchBandit: a contextual bandit that picks how many patches, and learns a score for each."""

from vit_patch_env.agents.bandit.bandit import PatchBandit
from vit_patch_env.agents.bandit.policies import BanditPolicy
from vit_patch_env.agents.bandit.regression import BayesianRegression

__all__ = ["BanditPolicy", "BayesianRegression", "PatchBandit"]
