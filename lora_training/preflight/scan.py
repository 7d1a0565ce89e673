"""Check many files in threads, with a progress line and a cache of the files found good."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import SimpleQueue
from threading import Thread

from lora_training.preflight.job import Progress
from lora_training.problems import Problem, Severity
from lora_training.stat_cache import StatCache

Check = Callable[[str], str | None]

_MOST_THREADS = 8  # each may hold a decoded image
_LINE_EVERY = 50
_WORTH_A_LINE = 1000
_SHOWN = 10


def broken(paths: Iterable[str], check: Check, seen: StatCache, what: str, progress: Progress) -> dict[str, str]:
    """Run `check` on each of `paths` and return the failures with their messages, in the order of `paths`.

    `check` returns a message, or None for a good file; `what` names the files in the plural. Good files are saved in
    `seen`, also after a KeyboardInterrupt.
    """
    found = texts(paths, check, seen, what, progress, keeps=lambda wrong: not wrong)
    return {path: wrong for path, wrong in found.items() if wrong}


def texts(
    paths: Iterable[str],
    look: Check,
    seen: StatCache,
    what: str,
    progress: Progress,
    keeps: Callable[[str], bool] = lambda _text: True,
) -> dict[str, str]:
    """Return what `look` returns for each of `paths`, from `seen` where it was called before and the text is kept."""
    names = list(dict.fromkeys(paths))
    left = seen.unknown(names)
    if len(left) >= _WORTH_A_LINE:
        progress(f"checking {len(left)} {what}; the next start remembers those that are good")
    found: dict[str, str] = {}
    try:
        for done, (path, text) in enumerate(checked(look, left)):
            if done % _LINE_EVERY == 0:
                progress(f"checking {what}: {done} of {len(left)} ({100 * done // len(left)} %)")
            found[path] = text or ""
            if left[path] and keeps(found[path]):
                seen.add(path, left[path], found[path])
    finally:
        seen.save()
    return {path: found[path] if path in left else seen.word(path) for path in names}


def checked(check: Check, paths: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each path with the result of `check`, in the order of completion.

    The threads are daemons, unlike those of a pool, so that the process can exit while one hangs on a dead network
    disk.
    """
    todo = deque(paths)
    number = len(todo)
    done: SimpleQueue[tuple[str, str | None] | Exception] = SimpleQueue()

    def work() -> None:
        while todo:
            try:
                path = todo.popleft()
            except IndexError:
                # another thread took the last one
                return
            try:
                done.put((path, check(path)))
            except Exception as exc:  # noqa: BLE001 - raised again by the thread that reads the result
                done.put(exc)

    for _ in range(min(_MOST_THREADS, (os.cpu_count() or 1) + 1)):
        Thread(target=work, daemon=True).start()
    try:
        for _ in range(number):
            result = done.get()
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        todo.clear()


def problems(
    found: Mapping[str, str], one: str, many: str, cure: str, severity: Severity = "error"
) -> Iterator[Problem]:
    """Yield one problem for all files in `found`, each with its reason: the first ten, and the number of the others."""
    if found:
        lines = [f"{path} ({why})" for path, why in found.items()]
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        message = f"{len(lines)} {one if len(lines) == 1 else many}: {lines[0]}"
        yield Problem(message, "\n".join([*lines[1:_SHOWN], *more, cure]), severity)
