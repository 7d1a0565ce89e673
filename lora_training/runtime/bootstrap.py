"""Entry point of the training process: install the runtime patches, then run upstream's script unchanged.

This module may print to stderr and exit, since it is the command line of this process.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from lora_training.errors import LoraError

# The chosen patches and their settings, as JSON: an object of settings for each patch name.
VARIABLE = "LORA_RUNTIME"
# The supervisor's process id.
SUPERVISOR = "LORA_SUPERVISOR"
# torch.distributed's variable, set where a launcher has started several processes of one training.
RANK = "RANK"
_POLL_S = 1.0


def main(argv: Sequence[str]) -> int:
    """Run the script `argv[0]` with the flags that follow; return the exit code, also when a patch does not fit."""
    script, *flags = argv
    end_with_parents()
    _know_no_eps()
    try:
        chosen = json.loads(os.environ.get(VARIABLE, "{}"))
        if chosen:
            _arm(chosen, Path(script), flags)
        _run(Path(script), flags, patched=bool(chosen))
    except LoraError as exc:
        sys.stderr.write(f"error: {exc.message}\n" + (f"hint: {exc.hint}\n" if exc.hint else ""))
        return exc.exit_code
    return 0


def end_with_parents() -> None:
    """Kill this process group when the supervisor or the launcher of a rank ends: no training is left behind.

    A script that shares its supervisor's group, with whatever a shell put there, ends alone.
    """
    pid = os.environ.get(SUPERVISOR, "")
    watched = [int(pid)] if pid.isdecimal() else []
    is_shared = any(_group(each) in (None, os.getpgrp()) for each in watched)
    if RANK in os.environ:
        # accelerate's launcher starts each rank in its own session, so a rank does not end with the launcher by itself
        watched.append(os.getppid())
    for each in watched:
        threading.Thread(target=_watch, args=(each,), kwargs={"is_shared": is_shared}, daemon=True).start()


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _watch(pid: int, *, is_shared: bool) -> None:
    _wait(pid)
    if is_shared:
        os.kill(os.getpid(), signal.SIGKILL)
    # the workers of the data loaders are in the same process group
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _wait(pid: int) -> None:
    """Return when process `pid` has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        _poll(pid)
        return
    select.select([descriptor], [], [])


def _poll(pid: int) -> None:
    """Return when process `pid` has ended, on a system without `pidfd_open`."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        except PermissionError:
            pass
        time.sleep(_POLL_S)


def _know_no_eps() -> None:
    """Block PIL's EPS plugin, which starts Ghostscript: a sample prompt may name any file as its image."""
    modules: dict[str, Any] = sys.modules
    modules["PIL.EpsImagePlugin"] = None


def _arm(chosen: Mapping[str, Mapping[str, Any]], script: Path, flags: Sequence[str]) -> None:
    from lora_training.runtime import registry
    from lora_training.runtime.model import Start

    for line in registry.install(chosen, script.parent, Start(tuple(flags), os.environ)):
        sys.stderr.write(f"lora: runtime patch {line}\n")


def _run(script: Path, flags: Sequence[str], *, patched: bool) -> None:
    """Run the script as `python SCRIPT` does, but patch its definitions before its main part runs.

    The script is not imported, so import hooks do not see it. It is run in two parts, split at `if __name__ == ...`.
    """
    sys.argv = [str(script), *flags]
    # as `python SCRIPT` does
    sys.path.insert(0, str(script.parent))
    module = ModuleType("__main__")
    module.__file__ = str(script)
    sys.modules["__main__"] = module
    definitions, work = _parts(ast.parse(script.read_bytes(), str(script)))
    with _no_collection():
        _execute(definitions, module)
    if patched:
        from lora_training.runtime import registry

        registry.script_defined(script.stem, module)
    _execute(work, module)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the garbage collector off during the imports, which makes them an eighth faster.

    Imported objects are kept for the whole run, so later collections skip them, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _parts(tree: ast.Module) -> tuple[ast.Module, ast.Module]:
    mains = (
        at for at, node in enumerate(tree.body) if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
    )
    cut = next(mains, len(tree.body))
    return ast.Module(tree.body[:cut], []), ast.Module(tree.body[cut:], [])


def _execute(part: ast.Module, module: ModuleType) -> None:
    code = compile(part, str(module.__file__), "exec", dont_inherit=True)
    exec(code, vars(module))  # noqa: S102 - running the script is what this process is for


def environment(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the environment variables that tell `main`, in a child process, which patches to install."""
    return {VARIABLE: json.dumps(chosen, sort_keys=True)} if chosen else {}
