"""All checks of `lora doctor` in order, and those of the checkout: upstreams, patches, runtime patches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from lora_training.app.doctor import machine
from lora_training.app.doctor import torch as torches
from lora_training.app.doctor.machine import ok, problem, warn
from lora_training.errors import LoraError
from lora_training.patching.series import Target
from lora_training.problems import Problem
from lora_training.workspace import Workspace


def examine(here: Workspace, say: Callable[[str], None]) -> Iterator[Problem]:
    """Yield the result of every check, in the order of the output; `say` is called before slow checks."""
    from lora_training.launch import gpus
    from lora_training.supervise import environment

    def probed() -> Iterable[Problem]:
        say("importing torch, which takes a moment")
        return torches.findings(torches.probe(sys.executable), gpus.described())

    checks: dict[str, Callable[[], Iterable[Problem]]] = {
        "python": machine.python,
        "git": lambda: _git(here),
        "packages": lambda: machine.packages(here.root / "requirements" / "train.txt", environment.packages()),
        "transformers": lambda: machine.transformers(here.upstream("transformers").path),
        "torch": probed,
        "upstream": lambda: _upstreams(here),
        "patches": lambda: _patches(here),
        "runtime": lambda: _runtime(here),
        "disk": lambda: machine.disk([here.root, here.cache]),
        "folders": lambda: machine.writable({"cache": here.cache, "state": here.state}),
    }
    for name, check in checks.items():
        yield from results(name, check)


def results(about: str, check: Callable[[], Iterable[Problem]]) -> list[Problem]:
    """Return the results of one check; a check that fails with an error is a problem."""
    try:
        return list(check())
    except LoraError as exc:
        return [problem(about, exc.message, exc.hint)]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return [problem(about, f"cannot be checked: {exc}")]


def _git(here: Workspace) -> Iterable[Problem]:
    """Check git, which sealed trees, as in the container image, do not need."""
    from lora_training.upstream import pins

    if any(pins.head(upstream).origin == "sealed" for upstream in here.upstreams.values()):
        return [ok("git", "not needed, since the trees have no repositories")]
    return machine.git(here.root)


def _upstreams(here: Workspace) -> Iterator[Problem]:
    """Check that each tree is at its pin. Edits are found by the check of the patches."""
    from lora_training.upstream import pins

    for name in here.upstreams:
        read = pins.status(here, name)
        sync = f"lora upstream sync {name}"
        if read.commit is None:
            yield problem("upstream", f"{name} is not there", f"`{sync}` brings it; README, Mirrors, where that fails")
        elif not read.at_pin:
            yield problem("upstream", f"{name} is at {read.commit[:12]}, not at its pin {read.pin[:12]}", f"`{sync}`")
        else:
            yield ok("upstream", f"{name} at its pin {read.pin[:12]}, from {read.source}")


def _verified(here: Workspace) -> tuple[list[Target], Sequence[Problem]]:
    """Return the trees that are here, and the problems of their patches."""
    from lora_training.app.targets import targets
    from lora_training.patching import verify
    from lora_training.upstream import pins

    trees = [target for target in targets(here) if pins.head(here.upstream(target.name)).commit]
    return trees, verify.trees(here, trees).problems


def _patches(here: Workspace) -> Iterator[Problem]:
    """Check that every patch is applied and no file has drifted."""
    from lora_training.patching import lockfile

    there, problems = _verified(here)
    for each in problems:
        yield problem("patches", f"{each.where}: {each.message}".removeprefix(": "), each.hint or None)
    if not problems:
        stacks = lockfile.read(here.patches)
        names = [f"{target.name}/{patch.name}" for target in there for patch in stacks[target.name].patches]
        yield ok("patches", f"verified: {', '.join(names)}") if names else warn("patches", "no tree to verify them in")


def _runtime(here: Workspace) -> Iterator[Problem]:
    """Check that the runtime patches fit their targets."""
    from lora_training.app.targets import are_checked, fit_again, runtime_problems
    from lora_training.runtime import registry

    problems = runtime_problems(here)
    if problems and _verified(here)[1]:
        yield warn("runtime", "the runtime patches fit a tree with the patches applied: mend those first")
    elif problems:
        # one cause often makes several targets fail
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        yield problem("runtime", f"{problems[0].message}{more}", problems[0].hint)
    elif are_checked(here):
        out = f"; taken out: {', '.join(sorted(registry.taken_out()))}" if registry.taken_out() else ""
        yield ok("runtime", f"all {len(registry.available()) - len(registry.taken_out())} runtime patches fit{out}")
        if again := fit_again(here):
            yield warn("runtime", again)
