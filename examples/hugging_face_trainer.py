"""Hugging Face's `Trainer` without and with a patch schedule.

`python examples/hugging_face_trainer.py STEPS` trains a tiny ViT on digits, and
`python examples/hugging_face_trainer.py STEPS FOLDER` a ViT-Tiny of 6 layers on photographs.
"""

import sys
import tempfile
import time

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from vit_patch_env import PatchSchedule, load_dataset, select_patches
from vit_patch_env.integrations.hugging_face import PatchScheduleCallback

n_steps, folder = int([*sys.argv, 400][1]), [*sys.argv, None, None][2]
name, size, dim = ("folder", 96, 192) if folder else ("digits", 32, 48)
data = load_dataset(name, data_dir=folder, image_size=size)
x, x_test = (split.images / 127.5 - 1 for split in (data.train, data.test))
train_set = [{"pixel_values": a, "labels": b} for a, b in zip(x, data.train.labels, strict=True)]
config = ViTConfig(
    image_size=size, patch_size=size // 8, num_channels=x.shape[1],
    hidden_size=dim, intermediate_size=4 * dim, num_hidden_layers=dim // 32,
    num_attention_heads=3, num_labels=len(data.classes),
)  # fmt: skip
args = TrainingArguments(
    tempfile.mkdtemp(), max_steps=n_steps, per_device_train_batch_size=32, save_strategy="no",
    report_to=[], disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
)  # fmt: skip

for plug_in in (False, True):
    torch.manual_seed(0)
    vit = ViTForImageClassification(config)
    model = select_patches(vit) if plug_in else vit
    schedule = PatchSchedule("quadratic", n_patches=64, total_steps=n_steps)
    optimizer = torch.optim.AdamW(vit.parameters(), lr=1e-3, weight_decay=0.05)
    optimizers = optimizer, LambdaLR(optimizer, schedule.learning_rate)
    trainer = Trainer(model, args, train_dataset=train_set, optimizers=optimizers)
    if plug_in:
        trainer.add_callback(PatchScheduleCallback(schedule))
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        accuracy = (vit.eval()(x_test).logits.argmax(dim=1) == data.test.labels).float().mean()
    print(f"{'with' if plug_in else 'without'}: {seconds:.1f} s, accuracy {accuracy:.1%}")
