"""The state of Python's, NumPy's and torch's global random generators."""

import random
from typing import Any

import numpy as np
import torch

from vit_patch_env.experiments.checkpoints.snapshot import restore, snapshot


def snapshot_generators() -> Any:
    """The state of the global generators, as plain data and tensors."""
    version, words, gauss = random.getstate()
    state = {
        "python": (version, np.array(words, dtype=np.uint32), gauss),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  (Stable-Baselines3 uses it)
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
    }
    return snapshot(state)


def restore_generators(state: Any) -> None:
    """Restore the global generators to a state that `snapshot_generators` returned."""
    state = restore(None, state)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
