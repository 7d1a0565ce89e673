"""Check each flag, each runtime patch and the run's name on their own."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_training import nearest
from lora_training.config.checks.view import View
from lora_training.errors import ConfigError
from lora_training.problems import Problem

_NEEDED = {
    "pretrained_model_name_or_path": '"models/model.safetensors"',
    "network_module": '"networks.lora"',
    "output_dir": '"output"',
}
# file systems allow 255 bytes; suffixes are appended to the name
_LONGEST_NAME = 200
_LOG, _LOG_FOLDERS = "console_log_file", ("output_dir", "logging_dir")


def problems(view: View, patches: Collection[str] = ()) -> Iterator[Problem]:
    """Yield the flags that upstream does not know or whose values it would refuse."""
    first: dict[str, str] = {}
    for key in view.config.entries:
        flag = view.schema.flag(key)
        if problem := view.refused.get(key):
            patch = key.replace("_", "-")
            yield (
                replace(problem, hint=f"write runtime.{patch}: it is a runtime patch") if patch in patches else problem
            )
        elif flag and first.setdefault(flag.dest, key) != key:
            message = f"`{key}` and `{first[flag.dest]}` are the same flag"
            yield view.problem(message, key, hint="keep one of them")


def required(view: View) -> Iterator[Problem]:
    """Yield missing flags that upstream's parser requires, or that every training needs."""
    for flag in view.schema.flags:
        if flag.required and not view.given(flag.dest):
            yield view.config.problem(f"`{flag.dest}` is missing: upstream requires it", ())
    for key, example in _NEEDED.items():
        if key in view.schema.keys and not view.on(key) and key not in view.refused:
            hint = f"for example {key} = {example}"
            yield view.problem(f"`{key}` is missing: nothing can be trained without it", key, hint=hint)


def runtime(view: View, known: Collection[str]) -> Iterator[Problem]:
    """Yield unknown names of runtime patches."""
    for name in view.config.runtime:
        if name not in known:
            hint = nearest.hint(name, known) or f"there are: {', '.join(sorted(known)) or 'none'}"
            yield view.config.problem(f"[runtime] has no patch named `{name}`", ("runtime", name), hint=hint)


def settings(view: View, wrong: Mapping[str, Iterable[Any]]) -> Iterator[Problem]:
    """Yield invalid settings of runtime patches: `wrong` by patch, each with `key` (or None), `message` and `hint`."""
    for name, found in wrong.items():
        for each in found:
            path = ("runtime", name, each.key) if each.key else ("runtime", name)
            yield view.config.problem(f"[runtime.{name}]: {each.message}", path, hint=each.hint)


def written(view: View) -> Iterator[Problem]:
    """Report a run's name that cannot be a file's, and a log file that upstream would truncate."""
    name = view.value("output_name")
    if view.given("output_name") and isinstance(name, str) and (error := refused_name(name)):
        yield view.problem(error.message, "output_name", hint=error.hint)
    path = view.resolved(_LOG)
    if path and os.path.lexists(path) and not _is_earlier_log(view, path):
        hint = "name a file that is not there, or a .log below output_dir or logging_dir"
        yield view.problem(f"`{_LOG}` would be written over {path}", _LOG, hint=hint)


def output(values: Mapping[str, Any]) -> Path:
    """Return the file that upstream writes at the end; `last` and `safetensors` are its defaults."""
    name, form = str(values.get("output_name", "last")), str(values.get("save_model_as", "safetensors"))
    if error := refused_name(name):
        raise error
    if form != "safetensors":
        raise ConfigError(
            f"`save_model_as` cannot be {form!r}",
            hint='set save_model_as = "safetensors": the LoRA is checked at the end, and nothing else can be',
        )
    return Path(values.get("output_dir", "")) / f"{name}.{form}"


def refused_name(name: str) -> ConfigError | None:
    """Return the error for a name that no run can have, since files, folders and commands have it too, or None."""
    # a name from the command line may have bytes that are not valid UTF-8
    length = len(name.encode("utf-8", "surrogatepass"))
    if not name or "/" in name:
        hint = "give the name of a file, without a folder"
    elif name.startswith("-"):
        hint = "begin it with another character: `-` is taken for an option"
    elif any(unicodedata.category(char) == "Cc" for char in name):
        hint = "leave out control characters, such as the end of a line"
    elif length > _LONGEST_NAME:
        hint = f"shorten it to {_LONGEST_NAME} bytes at most"
    else:
        return None
    shown = repr(name) if len(name) <= _LONGEST_NAME else f"{name[:20]!r}... ({length} bytes)"
    return ConfigError(f"`output_name` cannot be {shown}", hint=hint)


def _is_earlier_log(view: View, path: Path) -> bool:
    """Whether a path is an existing log file in one of the run's folders, after resolving symbolic links."""
    real = Path(os.path.realpath(path))
    folders = [os.path.realpath(folder) for key in _LOG_FOLDERS if (folder := view.resolved(key))]
    return real.suffix == ".log" and real.is_file() and any(real.is_relative_to(folder) for folder in folders)
