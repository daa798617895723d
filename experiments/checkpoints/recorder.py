"""A wrapper of vectorised environments that records transitions and replays them."""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor


class _Transition(NamedTuple):
    """What a step of the environments returned.

    Attributes:
        observations: of the environments.
        rewards: (n_envs,).
        dones: (n_envs,).
        infos: one per environment.
        torch_state: state of torch's global generator after the step; None if the step left it
            unchanged.
    """

    observations: Any
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]
    torch_state: Tensor | None


class TransitionRecorder(VecEnvWrapper):
    """Records the transitions since the last `clear`, and replays those passed to `replay`.

    An algorithm that is restored to the start of its rollout and receives the same transitions
    reaches the same state again. So any algorithm can be interrupted and resumed within a rollout.

    Args:
        venv: the environments.

    Attributes:
        transitions: recorded or replayed since the last `clear`.
        recording: whether to record the transitions of the environments.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.transitions: list[_Transition] = []
        self.recording = True
        self._to_replay: deque[_Transition] = deque()

    @property
    def n_to_replay(self) -> int:
        """Number of transitions still to be replayed."""
        return len(self._to_replay)

    def clear(self) -> None:
        """Drop the recorded transitions: a new rollout starts."""
        self.transitions.clear()

    def replay(self, transitions: list[Any]) -> None:
        """Return these transitions from the next steps instead of stepping the environments."""
        self._to_replay.extend(_Transition(*transition) for transition in transitions)

    @property
    def reset_infos(self) -> Any:
        """Of the environments' last resets, which VecEnvWrapper does not pass on."""
        return self.venv.reset_infos

    @reset_infos.setter
    def reset_infos(self, infos: Any) -> None:
        """VecEnv's constructor sets an attribute."""

    def reset(self) -> VecEnvObs:
        """Reset the environments."""
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Pass the actions on, unless the next transition is a replayed one."""
        if not self._to_replay:
            self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return the next transition, from the environments or a replayed one."""
        if self._to_replay:
            transition = self._to_replay.popleft()
            if transition.torch_state is not None:
                torch.set_rng_state(transition.torch_state)
        elif not self.recording:
            return self.venv.step_wait()
        else:
            before = torch.get_rng_state()
            observations, rewards, dones, infos = self.venv.step_wait()
            after = torch.get_rng_state()
            changed = None if torch.equal(before, after) else after  # by a user's model
            transition = _Transition(observations, rewards, dones, list(infos), changed)
        self.transitions.append(transition)
        # Copies, since on-policy algorithms add to the rewards of steps that end an episode.
        return (
            transition.observations,
            transition.rewards.copy(),
            transition.dones.copy(),
            transition.infos,
        )
