"""Whether a run's attention is that of the compiled kernel, which a resumed run keeps.

The kernel's results differ in the last bits from those of torch's operators, so that a run that
changed from one to the other would take another course.
"""

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import InputError
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.models.kernels.build import all_available, enable


def compiled_attention(env: ViTPatchSelectEnv) -> bool | None:
    """Whether there are kernels for the environment, compiled now if necessary; None on CUDA.

    If one is missing, this process uses none.
    """
    if env.device.type != "cpu":
        return None
    enable(True)  # an earlier run of this process may have ended it
    compiled = all_available(env.precision.dtype)
    enable(compiled)
    return compiled


def use_same_attention(folder: RunFolder, env: ViTPatchSelectEnv) -> None:
    """Compute attention as the run in a folder began to.

    Raises:
        ValueError: if it used the kernel and this process has none.
    """
    recorded = folder.compiled_attention
    if recorded is None or env.device.type != "cpu":
        return
    if not recorded:
        enable(False)
    elif not compiled_attention(env):
        raise InputError(
            f"expected a C compiler, as the run in {folder.path} began with compiled attention and "
            "would take another course, got none that works: set CC, or train it anew"
        )
