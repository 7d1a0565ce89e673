"""Histories, written down: no test here waits for anything."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

from lora_training.supervise.attempt import Attempt, Ended, Patience


@dataclass
class History:
    """What happens, moment by moment: a line, an exit code, a wish to stop ("STOP"), progress ("STEP"), or a second
    that passes (None). It is the child, the queue, the clock and the wish at once."""

    moments: list[str | int | None]
    obeys: bool = True
    now: float = 0.0
    stops: int = 0
    steps: int = 0
    seen: int = 0
    asked: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def get(self, timeout: float) -> str | int:
        assert timeout < 1
        if self.ended:
            return -9
        self.now += 1
        moment = self.moments.pop(0)
        if moment == "STOP":
            self.stops += 1
        elif moment == "STEP":
            self.steps += 1
        elif moment is not None:
            return moment
        raise queue.Empty

    def ask(self) -> None:
        self.asked.append(self.now)
        if self.obeys:
            self.moments[:] = [143]

    def end(self) -> None:
        self.ended.append(self.now)

    def progress(self) -> bool:
        before, self.seen = self.seen, self.steps
        return self.seen > before

    def play(self, **patience: float) -> Ended:
        given = Patience(**patience)
        return Attempt(
            self,
            self,
            clock=lambda: self.now,
            patience=given,
            wanted=lambda: self.stops,
            ask=self.ask,
            progress=self.progress,
            on_line=self.lines.append,
        ).watch()


def test_a_child_that_ends_is_believed() -> None:
    history = History(["one", None, "two", 0])
    assert history.play() == Ended(0, ("one", "two"))
    assert history.lines == ["one", "two"]


def test_what_it_started_is_ended_with_it() -> None:
    history = History([1])
    history.play()
    assert history.ended == [1.0]


def test_asked_once_it_may_save_its_state() -> None:
    history = History(["STOP", None, None])
    assert history.play() == Ended(143, asked=1)
    assert history.asked == [1.0]


def test_a_child_that_does_not_answer_in_time_is_ended() -> None:
    history = History(["STOP", *[None] * 99], obeys=False)
    assert history.play(grace=5.0).code == -9
    assert history.ended[0] == 7.0


def test_asked_twice_it_is_ended_at_once() -> None:
    history = History(["STOP", None, "STOP", *[None] * 99], obeys=False)
    assert history.play(grace=50.0).asked == 2
    assert history.ended[0] == 3.0


def test_no_progress_for_too_long_is_a_death() -> None:
    history = History(["STEP", None, "STEP", *[None] * 99])
    ended = history.play(stall=10.0)
    assert ended.stalled
    assert history.ended[0] == 14.0


def test_progress_is_what_counts_not_talk() -> None:
    talk = History(["STEP", *["still here"] * 99])
    assert talk.play(stall=10.0).stalled
    steps = History([*["STEP"] * 50, 0])
    assert not steps.play(stall=10.0).stalled


def test_while_it_loads_talk_is_progress_and_silence_is_none() -> None:
    assert not History([*["caching latents"] * 50, "STEP", 0]).play(stall=10.0).stalled
    assert History([*["caching latents"] * 50, *[None] * 99]).play(stall=10.0).stalled


def test_without_a_limit_silence_is_no_death() -> None:
    assert History([*[None] * 999, 0]).play() == Ended(0)


def test_a_long_log_leaves_its_end() -> None:
    ended = History([*map(str, range(100, 300)), "last", 1]).play()
    assert ended.tail[-1] == "last"
    assert len(ended.tail) == 100
