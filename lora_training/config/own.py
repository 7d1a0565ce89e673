"""Describe the tables that this project defines, `[launch]`, `[run]` and `[runtime]`, and find keys by a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lora_training.config import explain, tables
from lora_training.config import schema as schemas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LONGEST = 100  # characters of a help text in a list


class Patch(NamedTuple):
    """A runtime patch: its purpose, whether it is on by default, and the defaults of its settings."""

    text: str
    is_on: bool
    settings: Mapping[str, Any]


def table(key: str, patches: Mapping[str, Patch]) -> dict[str, Any] | None:
    """Return a table as JSON values: its name, its help, and each key with its type, help and default, or None.

    `key` is the name of a table, with or without brackets, or of a runtime patch; `patches` has all of these.
    """
    name = key.strip("[]")
    if name in tables.TABLES:
        keys = {each: {**about, "default": None} for each, about in tables.TABLES[name].items()}
        return {"table": name, "help": None, "keys": {each: _without(about) for each, about in keys.items()}}
    if name == "runtime":
        shown = {
            each: {"takes": "true, false or a table", "help": patch.text, "default": patch.is_on}
            for each, patch in patches.items()
        }
        return {"table": name, "help": "changes made in the training process; see PATCHES.md", "keys": shown}
    name = name.removeprefix("runtime.").replace("_", "-")
    if name not in patches:
        return None
    settings = {
        each: {"takes": None, "help": None, "default": default} for each, default in patches[name].settings.items()
    }
    return {"table": f"runtime.{name}", "help": patches[name].text, "keys": settings}


def _without(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != "schema"}


def table_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table as lines of text."""
    yield f"[{found['table']}]" + (f"  {found['help']}" if found["help"] else "")
    for key, about in found["keys"].items():
        default = about["default"]
        words = [about["takes"], about["help"], None if default is None else f"default {_plain(default)}"]
        yield f"  {key}: " + "; ".join(word.rstrip(".") for word in words if word)
    if not found["keys"]:
        yield "  it has no settings: true or false switches it"
    if found["table"].startswith("runtime."):
        yield f"  more: lora patch show {found['table'].replace('.', '/')}"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def search(tree: Path, word: str, patches: Mapping[str, Patch], *, cache: Path | None) -> dict[str, str]:
    """Return the keys whose name or help has the word, those with it in their name first; each with its help."""
    known: dict[str, str] = {}
    for schema in schemas.read_all(tree, cache=cache).values():
        known |= {flag.dest: flag.help or "" for flag in schema.flags}
        known |= {f"{table.strip('[]')}.{key}": takes for table, key, takes in explain.dataset_keys(schema)}
    known |= {f"{name}.{key}": about["help"] for name, keys in tables.TABLES.items() for key, about in keys.items()}
    known |= {f"runtime.{name}": patch.text for name, patch in patches.items()}
    wanted = word.lower().lstrip("-").replace("-", "_")
    named = {key: text for key, text in known.items() if wanted in key.replace("-", "_")}
    return named | {key: text for key, text in known.items() if wanted.replace("_", " ") in text.lower()}


def search_lines(word: str, found: Mapping[str, str]) -> Iterator[str]:
    """Yield the results of a search as lines of text."""
    yield f"no key is named {word}; these have it in their name or help:"
    for key, text in found.items():
        short = " ".join(text.split())
        yield f"  {key}: {short[:_LONGEST]}" + ("..." if len(short) > _LONGEST else "")
