from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import Trainer, start_ranks

pytestmark = pytest.mark.upstream

STEPS = 4


def noted(train: Trainer, folder: Path, runtime: dict[str, Any]) -> list[dict[str, Any]]:
    """What `tests.launch.probe` noted on each of two ranks."""
    import torch

    folder.mkdir()
    sets = (f"max_train_steps={STEPS}", "network_module=tests.launch.probe")
    ranks = start_ranks(train, folder, 2, *sets, runtime=runtime, env={"TEST_PROBE": str(folder)})
    assert [rank.wait() for rank in ranks] == [0, 0], "".join(rank.log[-3000:] for rank in ranks)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


def equal(left: list[Any], right: list[Any]) -> list[bool]:
    return [bool(one.equal(other)) for one, other in zip(left, right, strict=True)]


@pytest.fixture(scope="module")
def upstreams(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return noted(train, tmp_path_factory.mktemp("upstreams") / "ranks", {})


def test_upstreams_ranks_add_the_same_noise_at_the_same_timesteps(upstreams: list[dict[str, Any]]) -> None:
    first, second = upstreams
    assert equal(first["noise"], second["noise"]) == [True] * STEPS
    assert equal(first["timesteps"], second["timesteps"]) == [True] * STEPS
    assert equal(first["latents"], second["latents"]) == [False] * STEPS


def test_with_it_each_rank_has_its_own_and_the_first_what_it_had(
    train: Trainer, tmp_path: Path, upstreams: list[dict[str, Any]]
) -> None:
    first, second = noted(train, tmp_path / "ranks", {"rank-noise": {}})
    assert equal(first["noise"], second["noise"]) == [False] * STEPS
    assert not all(equal(first["timesteps"], second["timesteps"]))
    assert equal(first["noise"], upstreams[0]["noise"]) == [True] * STEPS
    assert all(equal(first["weights"], second["weights"]))
