"""The command line: Click commands, one module per group. The only package that prints or exits."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from lora_training import locks, printable, shell

if TYPE_CHECKING:
    import click

_PERMISSIONS = "change its permissions, or run this as its owner"
_HINTS = {
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EISDIR: "a folder is where a file should be: take it away, or choose another place",
    errno.ENOTDIR: "a file is where a folder should be: take it away, or choose another place",
    errno.EEXIST: "something else is there: take it away, or choose another place",
    errno.ENOENT: "it was not there, or has just been taken away",
    errno.EIO: "the disk fails: look at the system's log",
    errno.EMFILE: "raise the number of open files: `ulimit -n`",
}
# short names of upstream's options that are often tried as options of `lora`
_SHORT = {"lr": "learning_rate", "epochs": "max_train_epochs", "steps": "max_train_steps", "dim": "network_dim"}
_INSTALL = "`make setup` installs what training and the page need; elsewhere: pip install 'lora-training[train,ui]'"
_WRITING = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT})


def run(argv: Sequence[str]) -> int:
    """Run `lora argv` in this process and return the exit code; errors are printed to stderr.

    The only place that turns a LoraError into `error:` and `hint:` lines and an exit code.
    """
    from lora_training.errors import Interrupted, LoraError

    locks.on_wait(_note)
    try:
        _recover()
        return _finish(_run_click(argv))
    except Interrupted as exc:
        _note("\nhint: ".join(filter(None, (exc.message, exc.hint))))
        return exc.exit_code
    except LoraError as exc:
        _report(exc.message, exc.hint)
        return exc.exit_code
    except KeyboardInterrupt:
        _report("interrupted", "nothing is left half done; the same command can be given again")
        return 130
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except OSError as exc:
        _report(*_os_error(exc))
        return 1


def _os_error(exc: OSError) -> tuple[str, str | None]:
    """Describe an error of the operating system that no other module has handled; return a hint as well."""
    hint = _HINTS.get(exc.errno or 0)
    if not exc.strerror:
        return str(exc) or type(exc).__name__, hint
    path = exc.filename.decode(errors="replace") if isinstance(exc.filename, bytes) else exc.filename
    if not isinstance(path, str):
        return exc.strerror, hint
    return f"cannot {'write' if exc.errno in _WRITING else 'use'} {path}: {exc.strerror}", hint


def _recover() -> None:
    """Finish an interrupted move of an upstream to another commit."""
    from lora_training import workspace
    from lora_training.errors import LoraError

    try:
        here = workspace.find()
    except LoraError:
        # the command itself reports that, if it needs a checkout
        return
    if here.begun_bump.exists():
        from lora_training.app import bump

        outcome = bump.recover(here)
        if outcome:
            sys.stderr.write(f"note: an interrupted `lora upstream bump` was {outcome}\n")


def _finish(code: int) -> int:
    # a full disk may be noticed only now
    sys.stdout.flush()
    return code


def let_go() -> None:
    """Drop output that cannot be printed: Python would try again at exit, and print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        _flush_or_close(stream)


def _flush_or_close(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run_click(argv: Sequence[str]) -> int:
    import click

    from lora_training.cli.app import lora
    from lora_training.errors import PackageError

    try:
        code = lora.main(args=list(argv), prog_name="lora", standalone_mode=False)
    except click.ClickException as exc:
        if isinstance(exc, click.exceptions.NoArgsIsHelpError):
            exc.show()
        else:
            context = exc.ctx if isinstance(exc, click.UsageError) else None
            hint = f"`{context.command_path} --help` shows its use" if context else None
            as_set = _as_set(exc, argv) if isinstance(exc, click.NoSuchOption) else None
            _report(exc.message if as_set else exc.format_message(), as_set or hint)
        return exc.exit_code
    except click.Abort as exc:
        raise KeyboardInterrupt from exc
    except ModuleNotFoundError as exc:
        if (exc.name or "lora_training").startswith("lora_training"):
            raise
        raise PackageError(f"this command needs the package {exc.name}", hint=_INSTALL) from None
    except SystemExit as exc:
        # Click exits like this when the reader of the output has closed the pipe
        if exc.code:
            raise BrokenPipeError from exc
        raise
    return code if isinstance(code, int) else 0


def _as_set(wrong: click.NoSuchOption, argv: Sequence[str]) -> str | None:
    """Return a hint for an option that is one of upstream's flags, if the command takes these by `--set`."""
    from lora_training.cli import output

    name = wrong.option_name.lstrip("-").replace("-", "_")
    key, options = _SHORT.get(name, name), wrong.ctx.command.params if wrong.ctx else []
    sets = next((each for each in options if each.name == "sets"), None)
    if wrong.ctx is None or sets is None or f"{key}=" not in output.keys(wrong.ctx, sets, key):
        return None
    value = re.search(rf"{re.escape(wrong.option_name)}[ =]([^\s-]\S*)", shell.join(argv))
    return f"upstream's options are given by `--set {key}={value[1] if value else '...'}`"


def _note(line: str) -> None:
    sys.stderr.write(f"{printable.line(line)}\n")
    sys.stderr.flush()


def _report(message: str, hint: str | None) -> None:
    said = _labelled("error: ", message) + _labelled("hint: ", hint or "")
    # if stderr is not writable, the exit code still tells
    with contextlib.suppress(OSError):
        sys.stderr.write("".join(f"{line}\n" for line in said))


def _labelled(label: str, text: str) -> list[str]:
    """Return the lines of a text, the first with the label, the others indented, so that none looks like a message."""
    first, *rest = map(printable.line, text.split("\n"))
    return [label + first, *(" " * len(label) + line for line in rest)] if text else []
