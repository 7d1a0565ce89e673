"""Begin each epoch in a data loader's persistent workers as it would begin in new ones.

A new worker has generators that are seeded for the epoch, and a copy of the main process's dataset, whose buckets were
never shuffled. A worker that lives on has neither, and what it has cannot be saved in a state. So it gets both back:
then an epoch has the same images, captions and noise with new workers and with old ones.
"""

from __future__ import annotations

import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training.runtime import verify
from lora_training.runtime.model import wrap_function

if TYPE_CHECKING:
    from types import ModuleType

# what this relies on in torch 2.10
_DIGESTS = {
    "torch.utils.data.dataloader": {
        "_BaseDataLoaderIter.__init__": "72daeae73804d6dc",
        "_MultiProcessingDataLoaderIter._reset": "0965bb50a66ddfa7",
    },
    "torch.utils.data._utils.worker": {"_worker_loop": "160e3abe5bab5cf1"},
}


@dataclass
class _Epoch:
    """The seed of the epoch, which the main process sets, and in a worker the dataset as it was at first."""

    is_renewed: bool = False
    seed: Any = None
    dataset: list[tuple[Any, ...]] | None = None


_epoch = _Epoch()


def works(dataset: Any) -> bool:
    """Return whether persistent workers can be renewed: upstream's own datasets, and a torch that is known."""
    forks = multiprocessing.get_start_method() == "fork"
    # without validation, upstream has a loader of an empty list
    datasets = getattr(dataset, "datasets", [dataset] if dataset else [])
    return forks and _epoch.is_renewed and all(map(_has_buckets, datasets))


def _has_buckets(dataset: Any) -> bool:
    return hasattr(dataset, "bucket_manager")


def _is_known() -> bool:
    for name, digests in _DIGESTS.items():
        tree = verify.parse(Path(str(sys.modules[name].__file__)))
        if any(verify.digest_in(tree, member) != digest for member, digest in digests.items()):
            return False
    return True


def install(module: ModuleType) -> None:
    """Renew the persistent workers of every loader; `module` is `torch.utils.data.dataloader`."""
    _epoch.is_renewed = _is_known()
    if not _epoch.is_renewed:
        return
    wrap_function(module, "_MultiProcessingDataLoaderIter.__init__", _start)
    wrap_function(module, "_MultiProcessingDataLoaderIter._reset", _reset)
    wrap_function(module, "_DatasetKind.create_fetcher", _begin)


def _start(wrapped: Any, iterator: Any, args: Any, kwargs: Any) -> None:
    # the workers get it with the memory of this process
    _epoch.seed = iterator.lora_seed = multiprocessing.Value("q")
    wrapped(*args, **kwargs)


def _reset(wrapped: Any, iterator: Any, args: Any, kwargs: Any) -> None:
    import torch

    if not (kwargs.get("first_iter") or args[1:] == (True,)):
        # as for new workers, and at the same place in the sequence of random numbers
        seed = torch.empty((), dtype=torch.int64).random_(generator=args[0].generator).item()
        iterator.lora_seed.value = seed
    wrapped(*args, **kwargs)


def _begin(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    """Wrap a worker's first call in each epoch."""
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    if worker is not None and _epoch.dataset is None:
        _epoch.dataset = [_content(each) for each in getattr(worker.dataset, "datasets", ()) if _has_buckets(each)]
    elif worker is not None:
        _seed(worker.id)
        for dataset, content in zip(worker.dataset.datasets, _epoch.dataset or (), strict=True):
            _restore(dataset, *content)
    return wrapped(*args, **kwargs)


def _seed(worker: int) -> None:
    import random

    import numpy as np
    import torch
    from torch.utils.data._utils.worker import _generate_state

    random.seed(_epoch.seed.value + worker)
    torch.manual_seed(_epoch.seed.value + worker)
    np.random.seed(_generate_state(_epoch.seed.value, worker))  # noqa: NPY002 - what upstream draws from


def _content(dataset: Any) -> tuple[Any, ...]:
    """Return what upstream changes in a dataset during an epoch."""
    buckets = [list(bucket) for bucket in dataset.bucket_manager.buckets]
    return dict(vars(dataset)), list(dataset.buckets_indices), buckets


def _restore(dataset: Any, values: dict[str, Any], indices: list[Any], buckets: list[list[Any]]) -> None:
    vars(dataset).update(values)
    dataset.buckets_indices[:] = indices
    for bucket, names in zip(dataset.bucket_manager.buckets, buckets, strict=True):
        bucket[:] = names
