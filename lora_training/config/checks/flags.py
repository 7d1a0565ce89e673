"""Check each flag on its own: whether upstream knows it and accepts its value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_training import nearest
from lora_training.config.argv import encoded
from lora_training.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from lora_training.config.checks.view import View
    from lora_training.config.model import Config
    from lora_training.config.schema import Schema


def problems(config: Config, schema: Schema) -> Iterator[Problem]:
    """Yield the flags that upstream does not know or whose values it would refuse."""
    first: dict[str, str] = {}
    for key, entry in config.entries.items():
        found = encoded(config, schema, entry)
        if isinstance(found, Problem):
            yield found
            continue
        flag = schema.flag(key)
        if flag and first.setdefault(flag.dest, key) != key:
            message = f"`{key}` and `{first[flag.dest]}` are the same flag"
            yield config.problem(message, entry.path, hint="keep one of them")


def required(view: View) -> Iterator[Problem]:
    """Yield missing flags that upstream's parser requires, or that every training needs."""
    for flag in view.schema.flags:
        if flag.required and not view.given(flag.dest):
            yield view.config.problem(f"`{flag.dest}` is missing: upstream requires it", ())
    for key, example in _NEEDED.items():
        if key in view.schema.keys and not view.on(key) and key not in view.refused:
            hint = f"for example {key} = {example}"
            yield view.problem(f"`{key}` is missing: nothing can be trained without it", key, hint=hint)


_NEEDED = {
    "pretrained_model_name_or_path": '"models/model.safetensors"',
    "network_module": '"networks.lora"',
    "output_dir": '"output"',
}


def runtime(config: Config, known: Collection[str]) -> Iterator[Problem]:
    """Yield unknown names of runtime patches."""
    for name in config.runtime:
        if name not in known:
            hint = nearest.hint(name, known) or f"there are: {', '.join(sorted(known)) or 'none'}"
            yield config.problem(f"[runtime] has no patch named `{name}`", ("runtime", name), hint=hint)


def settings(config: Config, wrong: Mapping[str, Iterable[Any]]) -> Iterator[Problem]:
    """Yield invalid settings of runtime patches: `wrong` by patch, each with `key` (or None), `message` and `hint`."""
    for name, found in wrong.items():
        for each in found:
            path = ("runtime", name, each.key) if each.key else ("runtime", name)
            yield config.problem(f"[runtime.{name}]: {each.message}", path, hint=each.hint)
