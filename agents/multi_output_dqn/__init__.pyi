from .count_policy import CountMlpPolicy
from .multi_output_dqn import MultiOutputDQN
from .options import DQNOptions
from .policies import BranchingMlpPolicy, MlpPolicy

__all__ = ["BranchingMlpPolicy", "CountMlpPolicy", "DQNOptions", "MlpPolicy", "MultiOutputDQN"]
