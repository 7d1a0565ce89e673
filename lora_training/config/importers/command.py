"""Import a command line such as `accelerate launch ... sdxl_train_network.py --flag value ...`, on one line or many."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import PureWindowsPath
from typing import Any

from lora_training.config import tables
from lora_training.config.importers.draft import Draft, plain_word
from lora_training.config.schema import SCRIPT, Flag
from lora_training.config.schema.reader import is_negative_number
from lora_training.errors import ConfigError

KIND = "a command line"
_MOST = 2**17  # characters; shlex takes quadratic time for a long word
_CONTINUED = re.compile(r"[\\^`][ \t]*\r?\n")
_COMMENT = re.compile(r"[ \t]*(?:#|::|rem\b)", re.IGNORECASE)
_BEHIND = re.compile(r"(?<=[ \t])#")
_WINDOWS = re.compile(r"\b[A-Za-z]:\\|\.\\")
_ASSIGNED = re.compile(
    r"^[ \t]*(?:export[ \t]+|set[ \t]+|\$)?(?P<name>[A-Za-z_]\w*)[ \t]*=(?P<value>[^\n]*)$", re.MULTILINE
)
_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|\S*")
_USED = re.compile(r"\$(?P<sh>[A-Za-z_]\w*)|\$\{(?P<braced>[A-Za-z_]\w*)\}|%(?P<bat>[A-Za-z_]\w*)%")
_UNSET = re.compile(r"\$(?:\w+|\{[^}]*\}|[@*])|%\w+%")
_ENDS = ("&&", "||", ";", "|", "&", ">", ">>")
_SWITCHES = ("multi_gpu", "cpu", "quiet", "debug", "same_network", "no_python", "module", "tpu", "use_deepspeed")
_SEARCHES = 100
_ALIASES = {"n": "num_processes", "m": "module", "q": "quiet"}


def split(text: str) -> list[str]:
    """Split a command line into words. Raises ConfigError if its quotes do not match.

    Variables that the text itself sets (`NAME=value`, `$name = "value"`, `set NAME=value`) are substituted. If the text
    has Windows paths, a backslash is a plain character.
    """
    text = _filled("\n".join(map(_uncommented, text.split("\n"))))
    lexer = shlex.shlex(_CONTINUED.sub(" ", text), posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    if _WINDOWS.search(text):
        lexer.escape = ""
    try:
        return list(lexer)
    except ValueError:
        message = "the command line cannot be read: a quote or an escape has no end"
        raise ConfigError(message, hint="check its quotes") from None


def _uncommented(line: str) -> str:
    """Remove a line's comment; a `#` before the last quote of the line does not start one."""
    if _COMMENT.match(line):
        return ""
    found = _BEHIND.search(line, max(line.rfind("'"), line.rfind('"')) + 1)
    return line[: found.start()] if found else line


def _filled(text: str) -> str:
    """Substitute the variables that the text itself sets. Raises ConfigError if it is, or becomes, too long."""
    given = {found["name"]: found["value"].strip() for found in _ASSIGNED.finditer(text)}
    values = {name: value.strip("'\"") for name, value in given.items() if _VALUE.fullmatch(value)}

    def value(found: re.Match[str]) -> str:
        return values.get(found[str(found.lastgroup)], found[0])

    if len(text) + sum(len(value(found)) for found in _USED.finditer(text)) > _MOST:
        raise ConfigError(f"the command line, or the script that holds it, is longer than {_MOST} characters")
    return _USED.sub(value, text)


def training(text: str) -> tuple[str, list[str], list[str]]:
    """Return the script, the launcher's arguments and the script's arguments of the only training command in `text`.

    Raises ConfigError if there is none.
    """
    words = split(text)
    at = next((i for i, word in enumerate(words) if SCRIPT.fullmatch(_script(word))), None)
    if at is None:
        hint = "it should name one of upstream's scripts, such as sdxl_train_network.py"
        raise ConfigError("the command line starts no *train_network.py", hint=hint)
    before = list(takewhile(lambda word: word != "launch", reversed(words[:at])))
    launcher = before[::-1] if "launch" in words[:at] else []
    return _script(words[at]), launcher, list(takewhile(lambda word: word not in _ENDS, words[at + 1 :]))


def _script(word: str) -> str:
    """Return the name of a script, whose Windows path may have slashes of both kinds."""
    return PureWindowsPath(word).name.removesuffix(".py")


def script(content: tuple[str, list[str], list[str]]) -> str:
    """Return the script that the command starts."""
    return content[0]


def convert(content: tuple[str, list[str], list[str]], draft: Draft) -> None:
    """Import a training command into `draft`."""
    _, launcher, words = content
    _launcher(launcher, draft)
    flags(words, draft)


def _launcher(words: Sequence[str], draft: Draft) -> None:
    for written, values in _options(words):
        key, name = f"accelerate --{written}", _ALIASES.get(written, written)
        value = plain_word(values[0]) if values else None
        if name in _SWITCHES:
            draft.left_out(key, "follows from [launch]")
        elif tables.fits("launch", name, value):
            draft.for_launch(key, name, value)
        elif not (name == "gpu_ids" and values and draft.gpu_ids(key, values[0].split(","))):
            draft.lost(key, "a setting of the launcher that [launch] does not have")


def _options(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return each option with the arguments that follow it."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if _is_option(word):
            name, equals, value = word.lstrip("-").partition("=")
            found.append((name, [value] if equals else []))
        elif found:
            found[-1][1].append(word)
    return found


def _is_option(word: str) -> bool:
    return word.startswith("-") and not is_negative_number(word) and len(word) > 1


def flags(words: Sequence[str], draft: Draft, prefix: str = "") -> None:
    """Import the script's arguments into `draft` as upstream's parser would: the last of repeated flags counts."""
    _unset(takewhile(lambda word: not _is_option(word), words), draft)
    for name, values in _options(words):
        flag = _named(draft, name)
        key = f"{prefix}--{name}"
        if flag is None:
            draft.no_flag(key, name)
            continue
        taken = 0 if flag.is_switch or flag.is_list else 1
        given = [word for word in values if not _UNSET.fullmatch(word)] if flag.is_list else values[:taken]
        if given or not values or flag.is_switch:
            draft.flag(key, _value(flag, given), to=flag.dest)
        _unset(values[taken:], draft)


def _unset(words: Iterable[str], draft: Draft) -> None:
    for word in filter(_UNSET.fullmatch, words):
        draft.lost(word, "a shell variable without a value")


def _named(draft: Draft, name: str) -> Flag | None:
    """Return the flag that argparse would choose: an exact match, else the only flag with this prefix."""
    exact = draft.schema.flag(name)
    if exact and f"--{name}" in exact.options:
        return exact
    if draft.unknown > _SEARCHES:
        return None
    draft.unknown += 1
    near = [f for f in draft.schema.flags if any(o.startswith(f"--{name}") for o in f.options)]
    return near[0] if len(near) == 1 else None


def _value(flag: Flag, values: list[str]) -> Any:
    if flag.is_switch:
        return True
    if flag.is_list:
        return values
    return values[0] if values else None
