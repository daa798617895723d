"""Deep Q-learning for MultiBinary actions."""

from agents.multi_output_dqn.multi_output_dqn import MultiOutputDQN
from agents.multi_output_dqn.policies import BranchingMlpPolicy, MlpPolicy

__all__ = ["BranchingMlpPolicy", "MlpPolicy", "MultiOutputDQN"]
