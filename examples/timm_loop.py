"""A loop of timm's parts, as its train.py has it, without and with a patch schedule.

`python examples/timm_loop.py STEPS` trains a tiny ViT on digits, and
`python examples/timm_loop.py STEPS FOLDER` a ViT-Tiny of 6 layers on photographs.
"""

import sys
import time

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask

from vit_patch_env import PatchSchedule, load_dataset, select_patches

n_steps, folder = int([*sys.argv, 400][1]), [*sys.argv, None, None][2]
name, size, dim = ("folder", 96, 192) if folder else ("digits", 32, 48)
data = load_dataset(name, data_dir=folder, image_size=size)
x, x_test = (split.images / 127.5 - 1 for split in (data.train, data.test))

for plug_in in (False, True):
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, patch_size=size // 8, in_chans=x.shape[1],
        embed_dim=dim, depth=dim // 32, num_classes=len(data.classes),
    )  # fmt: skip
    task = ClassificationTask(model, verbose=False)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    times = {"num_epochs": n_steps, "updates_per_epoch": 1, "step_on_epochs": False}
    scheduler, _ = create_scheduler_v2(optimizer, warmup_epochs=n_steps // 20, **times)
    vit = task.trainable_module = select_patches(model)
    schedule = PatchSchedule("quadratic", n_patches=vit.n_patches, total_steps=n_steps)
    started = time.perf_counter()
    for num_updates in range(n_steps):
        batch = torch.randint(len(x), (32,))
        with vit.patches(schedule(num_updates) if plug_in else None):
            result = task(x[batch], data.train.labels[batch])
        result["loss"].backward()
        optimizer.step(), optimizer.zero_grad(), scheduler.step_update(num_updates + 1)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        accuracy = (model.eval()(x_test).argmax(dim=1) == data.test.labels).float().mean()
    print(f"{'with' if plug_in else 'without'}: {seconds:.1f} s, accuracy {accuracy:.1%}")
