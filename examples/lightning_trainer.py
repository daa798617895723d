"""Lightning's `Trainer` without and with a patch schedule.

`python examples/lightning_trainer.py STEPS` trains a tiny ViT on digits, and
`python examples/lightning_trainer.py STEPS FOLDER` a ViT-Tiny of 6 layers on photographs.
"""

import sys
import time

import timm
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from vit_patch_env import PatchSchedule, load_dataset, select_patches
from vit_patch_env.integrations.lightning import PatchScheduleCallback

n_steps, folder = int([*sys.argv, 400][1]), [*sys.argv, None, None][2]
name, size, dim = ("folder", 96, 192) if folder else ("digits", 32, 48)
data = load_dataset(name, data_dir=folder, image_size=size)
x, x_test = (split.images / 127.5 - 1 for split in (data.train, data.test))
schedule = PatchSchedule("quadratic", n_patches=64, total_steps=n_steps)


class Classifier(LightningModule):
    """A ViT of timm that a LightningModule trains."""

    def __init__(self, vit: torch.nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """The loss of a batch."""
        return cross_entropy(self.vit(batch[0]), batch[1])

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW, with the learning rate of the schedule's budget."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.05)
        rate = {"scheduler": LambdaLR(optimizer, schedule.learning_rate), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": rate}


for plug_in in (False, True):
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, patch_size=size // 8, in_chans=x.shape[1],
        embed_dim=dim, depth=dim // 32, num_classes=len(data.classes),
    )  # fmt: skip
    model = Classifier(select_patches(vit) if plug_in else vit)
    extra = [PatchScheduleCallback(schedule)] if plug_in else []
    trainer = Trainer(max_steps=n_steps, callbacks=extra, logger=False, enable_checkpointing=False)
    started = time.perf_counter()
    trainer.fit(model, DataLoader(TensorDataset(x, data.train.labels), 32, shuffle=True))
    seconds = time.perf_counter() - started
    with torch.no_grad():
        accuracy = (vit.eval()(x_test).argmax(dim=1) == data.test.labels).float().mean()
    print(f"{'with' if plug_in else 'without'}: {seconds:.1f} s, accuracy {accuracy:.1%}")
