"""Where a transaction happens, and the turn-taking around every command: lock, recover, then work."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_training import locks
from lora_training.patching import journal, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lora_training.patching.transaction import Recovered
    from lora_training.workspace import Workspace


@dataclass(frozen=True)
class Site:
    """`root` is the folder that all changes are below; `state` is ours, with the journal. They lock on `lock_on`."""

    root: Path
    state: Path
    lock_on: Path


def of_workspace(workspace: Workspace) -> Site:
    """The site of a checkout: all its upstreams together."""
    return Site(workspace.root, workspace.state / "patching", lock_on=workspace.root)


@contextmanager
def alone(site: Site) -> Iterator[Recovered | None]:
    """Hold the site alone, after bringing an interrupted command to its end; gives what that was."""
    with locks.exclusive(site.lock_on):
        yield transaction.recover(site.root, site.state)


@contextmanager
def together(site: Site) -> Iterator[Recovered | None]:
    """Hold the site against changes, with other readers; an interrupted command is brought to its end first."""
    recovered = None
    if journal.pending(site.state):
        with alone(site) as recovered:
            pass
    with locks.shared(site.lock_on):
        yield recovered


@contextmanager
def shared_lock(workspace: Workspace) -> Iterator[None]:
    """Held by a training as long as it runs, since each of its attempts imports upstream: no tree changes meanwhile."""
    with together(of_workspace(workspace)):
        yield
