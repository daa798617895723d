"""Reading items of data sets, batch by batch, in this process or in workers."""

import multiprocessing
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vit_patch_env.checks import ArgumentError
from vit_patch_env.data.generators import seeded_generators
from vit_patch_env.data.images import Request
from vit_patch_env.data.items import ItemError, Label, read_item
from vit_patch_env.data.resize import Form, resize_images

_CPU = torch.device("cpu")


class Items(NamedTuple):
    """What was read of some items.

    Attributes:
        places: of those that could be read, among the items asked for: (n_read,) int64.
        images: (n_read, channels, image_size, image_size) uint8; grey only if all are.
        labels: n_read.
        problems: why the others could not, by place.
    """

    places: NDArray[np.int64]
    images: Tensor
    labels: list[Label]
    problems: dict[int, str]


class ItemReader(Dataset[Items]):
    """Reads items of a data set; is itself one of what is read for each request.

    Args:
        dataset: map-style.
        where: the data set in messages, such as "the training set".
        form: what images become.
        num_workers: processes that read, as of torch's `DataLoader`; 0 for this one.

    Raises:
        ValueError: for workers in a process that may start none.
    """

    def __init__(self, dataset: Any, where: str, form: Form, num_workers: int) -> None:
        if num_workers and multiprocessing.current_process().daemon:
            raise ArgumentError(
                "num_workers",
                "must be 0 in a process that may start no others, such as those of SubprocVecEnv, "
                f"got {num_workers}",
            )
        self.dataset = dataset
        self.where = where
        self.form = form
        self.num_workers = num_workers

    def __getitem__(self, request: Request) -> Items:
        """The items at the request's indices, read with its random numbers."""
        places, images, labels, problems = [], [], [], {}
        with seeded_generators(request.seeds, request.part, _CPU):
            for place, index in enumerate(request.indices.tolist()):
                try:
                    image, label = read_item(self.dataset, index, self.where)
                except ItemError as error:
                    problems[place] = str(error)
                    continue
                places.append(place)
                images.append(resize_images(image, *self.form))
                labels.append(label)
        n_channels = max(map(len, images), default=1)
        size = self.form.image_size
        stacked = torch.empty(len(images), n_channels, size, size, dtype=torch.uint8, device=_CPU)
        for row, image in zip(stacked, images, strict=True):
            row.copy_(image)
        return Items(np.array(places, dtype=np.int64), stacked, labels, problems)

    def read(self, requests: Iterable[Request]) -> Iterator[Items]:
        """What is read for each request, in turn; workers read ahead."""
        if not self.num_workers:
            return map(self.__getitem__, requests)
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=requests,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(_CPU),  # it draws a seed, though not of the global generator
        )
        return iter(loader)


def _as_it_is(items: Any) -> Any:
    return items
