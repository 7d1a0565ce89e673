"""A remembered "all is as it should be", for `lora patch apply` and `lora patch verify` on a tree that did not change.

Make files and training starts run these two again and again. `patching.memo` writes down what the last yes rested on:
every file with its inode, size, times and mode. As long as each is the same to the nanosecond, so is the answer.
Anything else (another argument, a file that differs, an unfinished transaction) is left to the commands themselves.

Imports nothing but os: that is the point.
"""

import os

from lora_training import __version__

MEMO = ".lora/patching/memo"
# another version, or another copy of this one, may see it otherwise
HEADER = f"lora memo 1 {__version__} {os.path.dirname(__file__)}"  # noqa: PTH120
_COMMANDS = {
    ("patch", "apply"): "apply",
    ("patch", "apply", "--json"): "apply --json",
    ("patch", "verify"): "verify",
    ("patch", "verify", "--json"): "verify --json",
}


def answer(argv: "list[str]") -> "str | None":
    """What `lora argv` would print, with exit code 0, or None when that must be found out."""
    command = _COMMANDS.get(tuple(argv))
    root = _root() if command else None
    if command is None or root is None:
        return None
    try:
        with open(root + "/" + MEMO, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            header, watched, answers = file.read().split("\n\n", 2)
        if header != HEADER or not all(_is_same(root, line) for line in watched.split("\n")):
            return None
    except (OSError, ValueError):
        return None
    texts = dict(part.split("\n", 1) for part in answers.split("\0")[:-1])
    return texts.get(command)


def _is_same(root: str, line: str) -> bool:
    seen, _, path = line.partition("\t")
    return signature(os.path.join(root, path)) == seen  # noqa: PTH118


def signature(path: str) -> str:
    """What changes when anything about a file does; `-` for one that is not there.

    Of a folder that is only passed through, named with a slash at its end, what is in it does not matter.
    """
    try:
        status = os.lstat(path.rstrip("/"))
    except (FileNotFoundError, NotADirectoryError):
        return "-"
    if path.endswith("/"):
        return f"{status.st_ino} {status.st_mode}"
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_mode}"


def _root() -> "str | None":
    """The checkout, where `workspace.find` would find one: `LORA_HOME`, or our own at or above the current folder."""
    named = os.environ.get("LORA_HOME")
    if named:
        return os.path.abspath(os.path.expanduser(named))  # noqa: PTH100, PTH111
    folder = os.getcwd()  # noqa: PTH109
    while not os.path.exists(folder + "/.gitmodules"):  # noqa: PTH110
        parent = os.path.dirname(folder)  # noqa: PTH120
        if parent == folder:
            return None
        folder = parent
    own = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
    return folder if os.path.samefile(folder, own) else None  # noqa: PTH121
