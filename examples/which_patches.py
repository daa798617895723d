"""Does it matter which patches? One schedule of their number, and seven ways to choose them.

`python examples/which_patches.py` trains on digits for a few steps of each way, and
`python examples/which_patches.py STEPS FOLDER SEED WAY ...` on images in a folder: for the FLOPs of
so many steps on all patches. What the ways themselves compute is not counted.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from vit_patch_env import PatchSchedule, SimpleViT, load_dataset
from vit_patch_env.agents import GrowingOptions
from vit_patch_env.data.batches import BatchStream, Normalize
from vit_patch_env.integrations import count_step_flops
from vit_patch_env.observation import attention_received_by_each
from vit_patch_env.patches.sampling import SAMPLERS
from vit_patch_env.training.weight_average import WeightAverage

Scores = Callable[[SimpleViT, Tensor, Tensor], Tensor]
"""Maps a model with averaged weights, images and labels to a score of each patch of each image."""


def equal(model: SimpleViT, images: Tensor, labels: Tensor) -> Tensor:
    """The same score for all."""
    return torch.zeros(len(images), model.n_patches)


def contrast(model: SimpleViT, images: Tensor, labels: Tensor) -> Tensor:
    """How much the pixels of a patch differ: the logarithm of their standard deviation."""
    size = model.patch_size
    patches = rearrange(images, "b c (y p) (x q) -> b (y x) (p q c)", p=size, q=size)
    return patches.std(dim=2).add(0.01).log()


def attention(model: SimpleViT, images: Tensor, labels: Tensor) -> Tensor:
    """The logarithm of the attention that a patch receives in the first layer."""
    return attention_received_by_each(model, images).log()


def hard(model: SimpleViT, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of the class that the head predicts from a patch's token alone."""
    logits = model.head(model.norm(model.transform(model.embed(images))))
    return cross_entropy(logits.transpose(1, 2), labels[:, None].expand(logits.shape[:2]),
                         reduction="none")  # fmt: skip


def easy(model: SimpleViT, images: Tensor, labels: Tensor) -> Tensor:
    """The opposite of `hard`."""
    return -hard(model, images, labels)


CHOICES: dict[str, tuple[str, bool, Scores]] = {
    "batch": ("spread", False, equal),
    "image": ("spread", True, equal),
    "uniform": ("uniform", True, equal),
    "contrast": ("spread", True, contrast),
    "attention": ("spread", True, attention),
    "hard": ("spread", True, hard),
    "easy": ("spread", True, easy),
}
"""How patches are sampled, whether for each image by itself, and by which scores."""


def train(way: str, seed: int, n_steps: int, folder: str | None) -> None:
    """Train one ViT, and print its accuracy on the test images.

    Args:
        way: in `CHOICES`.
        seed: of the weights, images and patches.
        n_steps: on all patches, whose FLOPs are the budget.
        folder: of the images; None for the digits.
    """
    sampling, per_image, scores_of = CHOICES[way]
    data = load_dataset("folder" if folder else "digits", data_dir=folder)
    torch.manual_seed(seed)
    of_patches, started = np.random.default_rng(seed), time.perf_counter()
    model = SimpleViT(
        n_classes=len(data.classes),
        channels=data.train.images.shape[1],
        dim=96,
        depth=4,
        heads=3,
        dim_head=32,
        mlp_dim=192,
    )
    averaged = WeightAverage(model, decay=0.99)
    normalize = Normalize(data.channel_mean, data.channel_std, torch.device("cpu"))
    stream = BatchStream(*data.train, normalize, batch_size=128, seed=seed, flip=data.flip)
    schedule = PatchSchedule(
        GrowingOptions(power=4.0).share,
        n_patches=model.grid,
        total_steps=n_steps,
        step_flops=count_step_flops(model, normalize(data.train.images[:128])),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = LambdaLR(optimizer, schedule.learning_rate)
    for step in range(len(schedule)):
        images, labels = stream.next()
        n_keep, keep = schedule.n_keep(step), None
        if n_keep < model.n_patches:
            part = slice(None) if per_image else slice(1)
            with torch.no_grad():
                scores = scores_of(averaged.model, images[part], labels[part]).double()
            scores -= scores.mean(dim=1, keepdim=True)
            scores /= scores.std(dim=1, keepdim=True) + 1e-6
            keep = [
                np.flatnonzero(SAMPLERS[sampling](one, n_keep, of_patches, model.grid))
                for one in scores.numpy()
            ]
            keep = torch.from_numpy(np.stack(keep) if per_image else keep[0])
        cross_entropy(model(images, keep=keep), labels).backward()
        optimizer.step(), optimizer.zero_grad(), scheduler.step()
        averaged.update(model)
    seconds, right = time.perf_counter() - started, 0
    with torch.no_grad():
        for images, labels in zip(*(part.split(500) for part in data.test), strict=True):
            right += int((model(normalize(images)).argmax(dim=1) == labels).sum())
    accuracy = right / len(data.test.labels)
    print(
        f"{way} {seed}: {len(schedule)} steps, {seconds:.0f} s, accuracy {accuracy:.2%}", flush=True
    )


if __name__ == "__main__":
    given = sys.argv[1:]
    steps, folder, seed = [*given, *("4", "", "0")[len(given) :]][:3]
    for way in given[3:] or CHOICES:
        train(way, int(seed), int(steps), folder or None)
