"""Values of the AgentViT paper: its Table 2, and the setting of its Table 1."""

from typing import NamedTuple

from vit_patch_env.experiments.compare.results import FULL

AGENT = "agentvit"
"""The paper's agent."""


class PaperRow(NamedTuple):
    """A row of Table 2: training time in seconds on a Tesla K80, test metrics in [0, 1]."""

    seconds: float
    accuracy: float
    precision: float
    recall: float
    f1: float


TABLE2 = {
    "vit": PaperRow(5955, 0.8377, 0.8136, 0.8571, 0.8348),
    FULL: PaperRow(4870, 0.7844, 0.7917, 0.7857, 0.7886),
    "ats_vit": PaperRow(5813, 0.7429, 0.7324, 0.7544, 0.7432),
    AGENT: PaperRow(3730, 0.8011, 0.8013, 0.8010, 0.7997),
}
VIT = {"patch_size": 4, "dim": 128, "depth": 6, "heads": 16, "mlp_dim": 512, "dim_head": 64}
"""The ViT of Table 1, on images of 32x32 pixels."""
RECIPE = {
    "optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0, "schedule": "constant",
    "warmup_epochs": 0, "label_smoothing": 0.0, "augment": "crop-flip", "crop_padding": 4,
    "flip": None, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0,
}  # fmt: skip
"""The training recipe of preset table2; the paper does not report its own."""
N_STEPS = 39_000
"""About the number of training steps in the paper."""
N_PATCHES_DESIRED = 40
