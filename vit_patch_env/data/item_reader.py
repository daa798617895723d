"""Reading items of data sets, batch by batch, in this process or in workers."""

import itertools
import multiprocessing
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vit_patch_env.data.generators import seeded_generators
from vit_patch_env.data.images import Request
from vit_patch_env.data.items import ItemError, Label, read_item, unreadable
from vit_patch_env.data.resize import Form, resize_images

_CPU = torch.device("cpu")


class Items(NamedTuple):
    """What was read of some items.

    Attributes:
        places: of those that could be read, among the items asked for: (n_read,) int64.
        images: (n_read, channels, height, width) uint8; grey only if all are.
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
        skip_corrupt: take any error of the data set for a problem of the item.
        num_workers: processes that read, as of torch's `DataLoader`; 0 for this one, which also
            reads if it may start no processes, as those of SubprocVecEnv, and a few requests.
    """

    def __init__(
        self, dataset: Any, where: str, form: Form, *, skip_corrupt: bool, num_workers: int
    ) -> None:
        self.dataset = dataset
        self.where = where
        self.form = form
        self._skip_corrupt = skip_corrupt
        self._num_workers = num_workers

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
                except MemoryError:
                    raise
                except Exception as error:
                    if not self._skip_corrupt:
                        raise  # a mistake in the data set's code, which needs its traceback
                    problems[place] = unreadable(index, self.where, error)
                    continue
                places.append(place)
                images.append(resize_images(image, *self.form))
                labels.append(label)
        n_channels = max(map(len, images), default=1)
        shape = len(images), n_channels, *self.form.size
        stacked = torch.empty(shape, dtype=torch.uint8, device=_CPU)
        for row, image in zip(stacked, images, strict=True):
            row.copy_(image)
        return Items(np.array(places, dtype=np.int64), stacked, labels, problems)

    def read(self, requests: Iterable[Request]) -> Iterator[Items]:
        """What is read for each request, in turn; workers read ahead."""
        # Processes take longer to start than a few requests take to be read.
        requests = iter(requests)
        first = list(itertools.islice(requests, self._num_workers))
        following = list(itertools.islice(requests, 1)) if self._num_workers else []
        if not following or multiprocessing.current_process().daemon:
            return map(self.__getitem__, itertools.chain(first, following, requests))
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=itertools.chain(first, following, requests),
            num_workers=self._num_workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(_CPU),  # it draws a seed, though not of the global generator
        )
        return iter(loader)


def _as_it_is(items: Any) -> Any:
    return items
