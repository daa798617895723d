"""A user's own loop on all patches; on a schedule's, in as many steps and in half of the FLOPs.

`python examples/own_loop.py STEPS` trains a tiny ViT on digits, and
`python examples/own_loop.py STEPS FOLDER` a ViT-Tiny of 6 layers on photographs.
"""

import sys
import time

import timm
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from vit_patch_env import PatchSchedule, load_dataset, select_patches
from vit_patch_env.integrations import count_step_flops

n_steps, folder = int([*sys.argv, 400][1]), [*sys.argv, None, None][2]
name, size, dim = ("folder", 96, 192) if folder else ("digits", 32, 48)
data = load_dataset(name, data_dir=folder, image_size=size)
x, x_test = (split.images / 127.5 - 1 for split in (data.train, data.test))


def train(shares: float | str, n_steps: int, flops: bool = False) -> None:
    """Train from the same weights, and print the time and the accuracy."""
    torch.manual_seed(0)
    plain = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, patch_size=size // 8, in_chans=x.shape[1],
        embed_dim=dim, depth=dim // 32, num_classes=len(data.classes),
    )  # fmt: skip
    model = select_patches(plain)
    step_flops = count_step_flops(model, x[:32]) if flops else None
    schedule = PatchSchedule(shares, n_patches=64, total_steps=n_steps, step_flops=step_flops)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    scheduler, started = LambdaLR(optimizer, schedule.learning_rate), time.perf_counter()
    for step in range(len(schedule)):
        batch = torch.randint(len(x), (32,))
        cross_entropy(model(x[batch], keep=schedule(step)), data.train.labels[batch]).backward()
        optimizer.step(), optimizer.zero_grad(), scheduler.step()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        accuracy = (plain.eval()(x_test).argmax(dim=1) == data.test.labels).float().mean()
    print(f"{shares}: {len(schedule)} steps in {seconds:.1f} s, accuracy {accuracy:.1%}")


train(1.0, n_steps)
train("quadratic", n_steps)
train("quadratic", n_steps // 2, flops=True)
