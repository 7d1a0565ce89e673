"""Signs of life of machines that train together, with a clock that the tests turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.supervise.machines import LOST_S, Machines


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pair(folder: Path, clock: Clock) -> tuple[Machines, Machines]:
    return Machines(folder, 0, 2, clock), Machines(folder, 1, 2, clock)


def beat(clock: Clock, *machines: Machines, seconds: float) -> None:
    for _ in range(int(seconds)):
        clock.now += 1
        for each in machines:
            each.beat()


def test_machines_that_give_signs_of_life_are_there(tmp_path: Path, clock: Clock) -> None:
    first, second = pair(tmp_path, clock)
    beat(clock, first, second, seconds=200)
    assert (first.gone(), second.gone(), first.never_seen()) == (None, None, None)


def test_one_that_gives_none_any_more_is_named(tmp_path: Path, clock: Clock) -> None:
    first, second = pair(tmp_path, clock)
    beat(clock, first, second, seconds=10)
    beat(clock, first, seconds=LOST_S - 5)
    assert first.gone() is None
    beat(clock, first, seconds=10)
    assert str(first.gone()).startswith("machine 1 (")


def test_one_that_ended_says_why(tmp_path: Path, clock: Clock) -> None:
    first, second = pair(tmp_path, clock)
    beat(clock, first, second, seconds=10)
    second.beat(ended="the GPU ran out of memory")
    beat(clock, first, seconds=3)
    assert str(first.gone()).endswith("has ended: the GPU ran out of memory")


def test_what_an_earlier_run_left_is_no_sign_of_life(tmp_path: Path, clock: Clock) -> None:
    _, second = pair(tmp_path, clock)
    beat(clock, second, seconds=5)
    second.beat(ended="killed")
    again, _ = pair(tmp_path, clock)
    beat(clock, again, seconds=100)
    assert again.gone() is None
    assert str(again.never_seen()).startswith("machine 1 has given no sign of life")


def test_one_machine_alone_writes_nothing(tmp_path: Path, clock: Clock) -> None:
    alone = Machines(tmp_path, clock=clock)
    beat(clock, alone, seconds=5)
    assert list(tmp_path.iterdir()) == []
    assert (alone.gone(), alone.never_seen()) == (None, None)
