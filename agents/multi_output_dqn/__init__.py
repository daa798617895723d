"""Deep Q-learning for MultiBinary actions."""

from vit_patch_env.agents.multi_output_dqn.multi_output_dqn import MultiOutputDQN
from vit_patch_env.agents.multi_output_dqn.policies import BranchingMlpPolicy, MlpPolicy

__all__ = ["BranchingMlpPolicy", "MlpPolicy", "MultiOutputDQN"]
