"""A command line: `accelerate launch ... sdxl_train_network.py --flag value ...`, on one line or many."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from lora_training.config.schema.types import is_negative_number
from lora_training.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lora_training.config.importers.draft import Draft
    from lora_training.config.schema import Flag

KIND = "a command line"
_CONTINUED = re.compile(r"[ \t]*[\\^`][ \t]*\r?\n")
_COMMENT = re.compile(r"^[ \t]*(?:#|::|rem\b).*$|(?<=[ \t])#[^\n'\"]*$", re.MULTILINE | re.IGNORECASE)
_WINDOWS = re.compile(r"\b[A-Za-z]:\\|\.\\")
_ASSIGNED = re.compile(
    r"^[ \t]*(?:export[ \t]+|set[ \t]+|\$)?(?P<name>[A-Za-z_]\w*)[ \t]*=[ \t]*"
    r"(?P<value>'[^'\n]*'|\"[^\"\n]*\"|\S*)[ \t]*\r?$",
    re.MULTILINE,
)
_USED = re.compile(r"\$(?P<sh>[A-Za-z_]\w*)|\$\{(?P<braced>[A-Za-z_]\w*)\}|%(?P<bat>[A-Za-z_]\w*)%")
_ENDS = ("&&", "||", ";", "|", "&", ">", ">>")
_LAUNCH = {
    "num_processes": int,
    "num_machines": int,
    "machine_rank": int,
    "main_process_ip": str,
    "main_process_port": int,
    "num_cpu_threads_per_process": int,
    "mixed_precision": str,
}
_SWITCHES = ("multi_gpu", "cpu", "quiet", "debug", "same_network", "no_python", "module", "tpu", "use_deepspeed")
_ALIASES = {"n": "num_processes", "m": "module", "q": "quiet"}


def split(text: str) -> list[str]:
    """The words of a command line. Raises ConfigError when its quotes do not match.

    Variables that the text itself sets (`NAME=value`, `$name = "value"`, `set NAME=value`) are filled in. Where there
    are Windows paths, a backslash is a character like any other.
    """
    text = _filled(_COMMENT.sub("", text))
    lexer = shlex.shlex(_CONTINUED.sub(" ", text), posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = "" if _WINDOWS.search(text) else "\\"
    try:
        return list(lexer)
    except ValueError as exc:
        raise ConfigError(f"the command line cannot be read: {exc}", hint="check its quotes") from None


def _filled(text: str) -> str:
    values = {found["name"]: found["value"].strip().strip("'\"") for found in _ASSIGNED.finditer(text)}
    return _USED.sub(lambda found: values.get(found["sh"] or found["braced"] or found["bat"], found[0]), text)


def training(text: str) -> tuple[str, list[str], list[str]]:
    """The script, the launcher's words and the script's words of the one training command in `text`.

    Raises ConfigError when there is none.
    """
    words = split(text)
    at = next((i for i, word in enumerate(words) if _is_script(word)), None)
    if at is None:
        hint = "it should name one of upstream's scripts, such as sdxl_train_network.py"
        raise ConfigError("the command line starts no *train_network.py", hint=hint)
    before = words[:at]
    start = next((i for i in range(len(before) - 1, -1, -1) if before[i] == "launch"), None)
    after = words[at + 1 :]
    end = next((i for i, word in enumerate(after) if word in _ENDS), len(after))
    return (
        re.split(r"[/\\]", words[at])[-1].removesuffix(".py"),
        before[start + 1 :] if start is not None else [],
        after[:end],
    )


def _is_script(word: str) -> bool:
    return bool(re.fullmatch(r"(?:.*[/\\])?(?:[a-z0-9_]+_)?train_network(?:\.py)?", word))


def convert(content: tuple[str, list[str], list[str]], draft: Draft) -> None:
    """Put a training command into `draft`."""
    _, launcher, words = content
    _launcher(launcher, draft)
    flags(words, draft)


def _launcher(words: Sequence[str], draft: Draft) -> None:
    for written, values in _options(words):
        key = f"accelerate --{written}"
        name = _ALIASES.get(written, written)
        if name in _SWITCHES:
            draft.defaulted(key, "follows from [launch]")
        elif name == "gpu_ids" and values and all(part.isdecimal() for part in values[0].split(",")):
            draft.launch["gpu_ids"] = list(dict.fromkeys(map(int, values[0].split(","))))
            draft.took(key, "launch.gpu_ids")
        elif name in _LAUNCH and values and (_LAUNCH[name] is str or values[0].isdecimal()):
            draft.launch[name] = _LAUNCH[name](values[0])
            draft.took(key, f"launch.{name}")
        else:
            draft.lost(key, "a setting of the launcher that [launch] does not have")


def _options(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option of a list of words with the words that follow it."""
    name: str | None = None
    values: list[str] = []
    for word in words:
        if word.startswith("-") and not is_negative_number(word) and len(word) > 1:
            if name is not None:
                yield name, values
            head, equals, tail = word.lstrip("-").partition("=")
            name, values = head, [tail] if equals else []
        else:
            values.append(word)
    if name is not None:
        yield name, values


def flags(words: Sequence[str], draft: Draft, prefix: str = "") -> None:
    """Put the script's own words into `draft`, as upstream's parser reads them: the last of a flag counts."""
    for name, values in _options(words):
        flag = _named(draft, name)
        key = f"{prefix}--{name}"
        if flag is None:
            draft.lost(key, f"{draft.schema.script} has no flag of that name")
        elif flag.is_list and flag.dest == "network_args":
            draft.words(key, values, to=flag.dest)
        else:
            draft.flag(key, _value(flag, values), to=flag.dest)


def _named(draft: Draft, name: str) -> Flag | None:
    """The flag that argparse would take: of that very name, else the only one that begins so."""
    exact = next((f for f in draft.schema.flags if f"--{name}" in f.options), None)
    if exact:
        return exact
    near = [f for f in draft.schema.flags if any(o.startswith(f"--{name}") for o in f.options)]
    return near[0] if len(near) == 1 else None


def _value(flag: Flag, values: list[str]) -> Any:
    if flag.is_switch:
        return True
    if flag.is_list:
        return values
    return values[0] if values else None
