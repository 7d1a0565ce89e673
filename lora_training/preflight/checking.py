"""Check many files in threads, with a progress line and a cache of the files found good."""

from __future__ import annotations

import os
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lora_training.preflight.finding import Progress
    from lora_training.remembered import Remembered

    Check = Callable[[str], str | None]

_MOST_THREADS = 8  # each may hold a decoded image
_IN_HAND = 4  # files queued per thread, so that no thread is idle
_LINE_EVERY = 50
_WORTH_A_LINE = 1000


def broken(paths: Iterable[str], check: Check, seen: Remembered, what: str, progress: Progress) -> dict[str, str]:
    """Run `check` on each of `paths` and return the failures with their messages, in the order of `paths`.

    `check` returns a message, or None for a good file; `what` names the files in the plural. Good files are saved in
    `seen`, also after a KeyboardInterrupt.
    """
    left = seen.unknown(dict.fromkeys(paths))
    if len(left) >= _WORTH_A_LINE:
        progress(f"checking {len(left)} {what}; the next start remembers those that are good")
    found: dict[str, str] = {}
    try:
        for done, (path, wrong) in enumerate(_checked(check, left)):
            if done % _LINE_EVERY == 0:
                progress(f"checking {what}: {done} of {len(left)} ({100 * done // len(left)} %)")
            if wrong is not None:
                found[path] = wrong
            elif left[path]:
                seen.add(path, left[path])
    finally:
        seen.save()
    return {path: found[path] for path in left if path in found}


def _checked(check: Check, paths: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each path with the result of `check`, in the order of completion.

    The threads are daemons, unlike those of a pool, so that the process can exit while one hangs on a dead network
    disk.
    """
    todo: SimpleQueue[str | None] = SimpleQueue()
    done: SimpleQueue[tuple[str, str | None] | Exception] = SimpleQueue()
    threads = min(_MOST_THREADS, (os.cpu_count() or 1) + 1)
    for _ in range(threads):
        Thread(target=_work, args=(check, todo, done), daemon=True).start()
    waiting = iter(paths)
    running = _give(todo, islice(waiting, threads * _IN_HAND))
    try:
        while running:
            result = done.get()
            if isinstance(result, Exception):
                raise result
            running += _give(todo, islice(waiting, 1)) - 1
            yield result
    finally:
        for _ in range(threads):
            todo.put(None)


def _give(todo: SimpleQueue[str | None], paths: Iterable[str]) -> int:
    given = list(paths)
    for path in given:
        todo.put(path)
    return len(given)


def _work(check: Check, todo: SimpleQueue[str | None], done: SimpleQueue[tuple[str, str | None] | Exception]) -> None:
    while (path := todo.get()) is not None:
        done.put(_result(check, path))


def _result(check: Check, path: str) -> tuple[str, str | None] | Exception:
    try:
        return path, check(path)
    except Exception as exc:  # noqa: BLE001 - raised again by the thread that reads the result
        return exc
