"""Describe one of upstream's flags, one of this project's own keys or tables, or find keys by a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lora_training import families, nearest
from lora_training.config import history, tables
from lora_training.config import schema as schemas
from lora_training.config.schema import Flag, Schema
from lora_training.errors import ConfigError, UpstreamError

_LONGEST = 100  # characters of a help text in a list


_ALL = "`lora config schema --script sdxl_train_network` lists the flags of a script"


@dataclass(frozen=True)
class Explained:
    """The description of a key.

    It has the key's table among this project's own with the accepted values and the help, the flag in each script that
    has it, the dataset tables that accept it, the scripts where it has no effect, and its changes between versions.
    """

    key: str
    own: dict[str, str] | None
    flags: dict[str, Flag]
    dataset_tables: dict[str, str]
    absent: tuple[str, ...]
    inert: dict[str, str]
    changes: tuple[history.Change, ...]
    versions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        return {
            "key": self.key,
            "ours": self.own,
            "scripts": {script: flag.public() for script, flag in self.flags.items()},
            "dataset_tables": self.dataset_tables,
            "absent": list(self.absent),
            "inert": self.inert,
            "versions": list(self.versions),
            "changes": [asdict(change) for change in self.changes],
        }


def explain(tree: Path, key: str, *, cache: Path | None = None) -> Explained:
    """Describe `key` in an upstream tree.

    Raises ConfigError, with the nearest name, if no script has the key, and UpstreamError if the tree has no script.
    """
    key = key.lstrip("-").replace("-", "_")
    read = schemas.read_all(tree, cache=cache)
    if not read:
        raise UpstreamError(f"no training script in {tree}", hint="run `lora upstream sync`")
    flags = {script: flag for script, schema in read.items() if (flag := schema.flag(key))}
    datasets = {table: takes for table, name, takes in dataset_keys(next(iter(read.values()))) if name == key}
    home = tables.table_of(key)
    if not flags and not datasets and not home:
        known = {name for schema in read.values() for name in schema.keys}.union(*tables.TABLES.values())
        raise ConfigError(f"upstream has no flag `{key}`", hint=nearest.hint(key, known) or _ALL)
    about = tables.TABLES[home][key] if home else {}
    return Explained(
        key=key,
        own={"table": home, "takes": about["takes"], "help": about["help"]} if home else None,
        flags=flags,
        dataset_tables=datasets,
        absent=tuple(script for script in read if script not in flags),
        inert={script: inert[key].reason for script in flags if key in (inert := families.of(script).inert)},
        changes=history.changes(tree, key, cache=cache),
        versions=history.versions(tree),
    )


def dataset_keys(schema: Schema) -> Iterator[tuple[str, str, str]]:
    """Yield each key of the tables of a dataset configuration: the table, the key, the values that it takes."""
    styles = schema.datasets.styles
    named = [("[general]", schema.datasets.general), ("[[datasets]]", styles["dreambooth"].dataset)]
    named += [("[[datasets.subsets]]", style.subset) for style in styles.values()]
    yield from ((name, key, str(takes)) for name, table in named for key, takes in table.keys.items())


def lines(found: Explained) -> Iterator[str]:
    """Return the description as lines of text."""
    yield found.key
    if found.own:
        yield f"  in [{found.own['table']}], lora's own: {found.own['takes']}"
        yield f"    help: {found.own['help']}"
    for flag in dict.fromkeys(found.flags.values()):
        # scripts that share one definition
        yield f"  in: {', '.join(script for script, other in found.flags.items() if other == flag)}"
        yield from (f"    {name}: {text}" for name, text in _facts(flag))
    for table, shape in found.dataset_tables.items():
        yield f"  in {table}: {shape}"
    if found.flags and found.absent:
        yield f"  not in: {', '.join(found.absent)}"
    for reason in dict.fromkeys(found.inert.values()):
        scripts = ", ".join(script for script, other in found.inert.items() if other == reason)
        yield f"  does nothing in {scripts}: {reason}"
    if found.versions:
        yield from _history(found)


def _facts(flag: Flag) -> Iterator[tuple[str, str]]:
    yield "type", "switch" if flag.is_switch else (flag.type or "str") + (" list" if flag.is_list else "")
    yield "default", "none" if flag.default is None else repr(flag.default)
    if flag.choices:
        yield "choices", ", ".join(str(choice) for choice in flag.choices if choice is not None)
    if flag.help:
        yield "help", flag.help


def _history(found: Explained) -> Iterator[str]:
    yield f"  changes since {found.versions[0]}:" + ("" if found.changes else " none")
    scripts: dict[tuple[str, str], list[str]] = {}
    for each in found.changes:
        fields = [
            "help reworded" if name == "help" else f"{name}: {old!r} -> {new!r}"
            for name, (old, new) in each.fields.items()
        ]
        what = f"{each.what} ({'; '.join(fields)})" if fields else each.what
        scripts.setdefault((each.version, what), []).append(each.script)
    for (version, what), names in scripts.items():
        yield f"    {version}: {what} in {', '.join(names)}"


# -- this project's own tables


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
    text: str | None = None
    facts: list[tuple[str, str | None, str | None, Any]]
    if name in tables.TABLES:
        facts = [(each, about["takes"], about["help"], None) for each, about in tables.TABLES[name].items()]
    elif name == "runtime":
        text = "changes made in the training process; see PATCHES.md"
        facts = [(each, "true, false or a table", patch.text, patch.is_on) for each, patch in patches.items()]
    elif patch := patches.get(name.removeprefix("runtime.").replace("_", "-")):
        name, text = f"runtime.{name.removeprefix('runtime.').replace('_', '-')}", patch.text
        facts = [(each, None, None, default) for each, default in patch.settings.items()]
    else:
        return None
    keys = {each: {"takes": takes, "help": about, "default": default} for each, takes, about, default in facts}
    return {"table": name, "help": text, "keys": keys}


def table_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table as lines of text."""
    yield f"[{found['table']}]" + (f"  {found['help']}" if found["help"] else "")
    for key, about in found["keys"].items():
        default = about["default"]
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        words = [about["takes"], about["help"], None if default is None else f"default {shown}"]
        yield f"  {key}: " + "; ".join(word.rstrip(".") for word in words if word)
    if not found["keys"]:
        yield "  it has no settings: true or false switches it"
    if found["table"].startswith("runtime."):
        yield f"  more: lora patch show {found['table'].replace('.', '/')}"


def search(tree: Path, word: str, patches: Mapping[str, Patch], *, cache: Path | None) -> dict[str, str]:
    """Return the keys with these initials, then those with the word in their name or help; each with its help."""
    known: dict[str, str] = {}
    for schema in schemas.read_all(tree, cache=cache).values():
        known |= {flag.dest: flag.help or "" for flag in schema.flags}
        known |= {f"{place.strip('[]')}.{key}": takes for place, key, takes in dataset_keys(schema)}
    known |= {f"{name}.{key}": about["help"] for name, keys in tables.TABLES.items() for key, about in keys.items()}
    known |= {f"runtime.{name}": patch.text for name, patch in patches.items()}
    wanted = word.lower().lstrip("-").replace("-", "_")
    if not wanted:
        return {}
    # `lr` is learning_rate
    initials = {key: "".join(part[:1] for part in key.rpartition(".")[2].split("_")) for key in known}
    short = {key: text for key, text in known.items() if initials[key] == wanted}
    named = {key: text for key, text in known.items() if wanted in key.replace("-", "_")}
    return short | named | {key: text for key, text in known.items() if wanted.replace("_", " ") in text.lower()}


def search_lines(word: str, found: Mapping[str, str]) -> Iterator[str]:
    """Yield the results of a search as lines of text."""
    yield f"no key is named {word}; these have it in their name or help:"
    for key, text in found.items():
        short = " ".join(text.split())
        yield f"  {key}: {short[:_LONGEST]}" + ("..." if len(short) > _LONGEST else "")
