"""Safe file access in folders that others may write to: only regular files, and no symbolic links."""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lora_training import nearest, shell
from lora_training.errors import TrainingError

# Larger files are refused by readers of whole files: a small archive may contain a file of any size.
LIMIT = 64 * 2**20
# Enough for a list of a million images with their captions.
LISTING = 2**30


def opener(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=opener)`. Raises OSError for a link and for anything but a regular file."""
    try:
        # without O_NONBLOCK, opening a pipe would wait for its other end
        handle = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed", path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return handle


def opener_of_any(path: str, flags: int) -> int:
    """Open a file that the user named: as `opener`, but links are followed."""
    return opener(os.path.realpath(path), flags)


def expanded(path: Path | str) -> Path:
    """Return an absolute path, with `~` expanded; that of an unknown user is left as it is, where pathlib raises."""
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - for that


def absolute(path: Path | str) -> Path:
    """Return an absolute path, without `..` unless a symbolic link makes that another file."""
    given = Path(path).absolute()
    plain = Path(os.path.normpath(given))
    return plain if os.path.realpath(plain) == os.path.realpath(given) else given


def read(path: Path, most: int = LIMIT) -> bytes:
    """Return a file's content. Raises OSError also for one of more than `most` bytes."""
    return _read(path, most, opener)


def read_any(path: Path | str, most: int = LIMIT) -> bytes:
    """Return the content of a file that the user named: as `read`, but links are followed."""
    return _read(path, most, opener_of_any)


def _read(path: Path | str, most: int, opened: Callable[[str, int], int]) -> bytes:
    with open(path, "rb", opener=opened) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most} bytes", str(path))
    return data


def read_json(path: Path, most: int = LIMIT) -> dict[str, Any]:
    """Return the object in a JSON file; empty for a file that cannot be read or holds anything else."""
    try:
        return parsed(read(path, most))
    except OSError:
        return {}


def parsed(data: bytes) -> dict[str, Any]:
    """Return the object in a JSON document; empty if it is anything else."""
    try:
        found = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, text: str | bytes, *, synced: bool = False) -> None:
    """Write a file atomically, `synced` to the disk. An existing file or link of that name is replaced."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    # two processes may write the same cache at once
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        with open(partial, "xb", opener=opener) as file:
            file.write(data)
        if synced:
            sync(partial)
        partial.replace(path)
    except OSError as exc:
        exc.filename = str(path)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if synced:
        sync(path.parent)


def alike(path: Path, suffix: str, otherwise: str) -> str:
    """Return a hint for a file that cannot be read: the most similar name in its folder, or `otherwise`."""
    stems = [name.removesuffix(suffix) for name in names(path.parent) if name.endswith(suffix)]
    near = nearest.name(path.name.removesuffix(suffix), stems)
    return f"did you mean `{near}{suffix}`?" if near else otherwise


def as_utf8(path: Path | str, data: bytes) -> str:
    """Return a hint for a text file that is not UTF-8: a command that converts it, and loses nothing if it fails."""
    word, new = shell.quote(str(path)), shell.quote(f"{path}.new")
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    guess, code = ("it looks like UTF-16", "UTF-16") if is_utf16 else ("if it is Latin-1", "LATIN1")
    return f"save the file as UTF-8; {guess}: `iconv -f {code} -t UTF-8 {word} -o {new} && mv {new} {word}`"


def sync(path: Path | str) -> None:
    """Sync a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def touch(path: Path) -> None:
    """Create an empty file if it does not exist."""
    with open(path, "ab", opener=opener):
        return


def names(folder: Path | str) -> list[str]:
    """Return the names in a folder, sorted; empty if it cannot be listed."""
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except (OSError, ValueError):
        return []


def repeated(folder: Path) -> dict[Path, int]:
    """Return the folders in `folder` that are named <repeats>_<words>, as in `train_data_dir`, with their repeats."""
    found: dict[Path, int] = {}
    for name in names(folder):
        with contextlib.suppress(ValueError):
            found[folder / name] = int(name.split("_")[0])
    return {path: repeats for path, repeats in found.items() if repeats > 0 and path.is_dir()}


@contextlib.contextmanager
def full_disk_reported() -> Iterator[None]:
    """Within the block, a write that fails because the disk is full raises TrainingError."""
    try:
        yield
    except OSError as exc:
        if not is_disk_full(exc):
            raise
        where = f": {exc.filename}" if exc.filename else ""
        raise TrainingError(
            f"the disk is full{where}",
            hint="make room, then run the same command again: it goes on from the last good state",
        ) from exc


def is_disk_full(exc: OSError) -> bool:
    """Return whether an operation failed because the disk or a quota is full."""
    return exc.errno in (errno.ENOSPC, errno.EDQUOT)
