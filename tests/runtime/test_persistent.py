from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.conftest import Trainer, same
from tests.runtime.test_exact_resume import ON, SAVING, SEVERAL, assert_continues, resume, state

pytestmark = pytest.mark.upstream
WORKERS = ("max_data_loader_n_workers=3",)
PERSISTENT = (*WORKERS, "persistent_data_loader_workers=true")
# prints the worker of each batch and what its generators give
SCRIPT = """
import os, random
import numpy, torch
from torch.utils.data import dataloader
from lora_training.runtime import persistent

class Manager:
    buckets = [[1, 2, 3, 4, 5]]

class Dataset:
    bucket_manager = Manager()
    def __init__(self): self.buckets_indices, self.epoch = list(range(8)), 0

class Group(torch.utils.data.Dataset):
    def __init__(self): self.datasets = [Dataset()]
    def __len__(self): return 8
    def __getitem__(self, index):
        one = self.datasets[0]
        one.epoch += 1
        random.shuffle(one.buckets_indices)
        random.shuffle(one.bucket_manager.buckets[0])
        drawn = random.random(), numpy.random.rand(), torch.rand(1).item()
        return os.getpid(), (index, one.epoch, one.buckets_indices[:], one.bucket_manager.buckets[0][:], drawn)

if __name__ == "__main__":
    persistent.install(dataloader)
    found = {}
    for kept in (True, False):
        torch.manual_seed(1)
        group = Group()
        loader = dataloader.DataLoader(group, None, shuffle=True, num_workers=3, persistent_workers=kept)
        epochs = [list(loader) for _ in range(3)]
        found[kept] = [[drawn for _, drawn in epoch] for epoch in epochs], torch.rand(1).item()
        print("processes", kept, len({process for epoch in epochs for process, _ in epoch}))
    print("works", persistent.works(group), persistent.works(object()))
    print("same", found[True] == found[False])
"""


def test_an_epoch_in_workers_that_live_on_is_that_of_new_ones(train: Trainer, tmp_path: Path) -> None:
    ran = train.script(tmp_path, SCRIPT, runtime={})
    assert ran.code == 0, ran.log
    said = ["processes True 3", "processes False 9", "works True False", "same True"]
    assert [line for line in ran.log.splitlines() if line.split()[:1] in (["processes"], ["works"], ["same"])] == said


def test_a_training_with_persistent_workers_ends_with_the_same_bits_and_resumes_to_them(
    train: Trainer, tmp_path: Path
) -> None:
    new, kept = (
        train(tmp_path / name, *SAVING, *sets, runtime=ON, datasets=SEVERAL)
        for name, sets in (("new", WORKERS), ("kept", PERSISTENT))
    )
    assert kept.code == 0, kept.log[-3000:]
    assert same(kept.weights(), new.weights())
    resumed = resume(train, tmp_path / "resumed", state(kept, 9), *PERSISTENT, datasets=SEVERAL)
    assert_continues(resumed, kept)
    assert "persistent_data_loader_workers is off" not in kept.log + resumed.log
