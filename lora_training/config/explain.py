"""Describe a flag of upstream's with its changes between versions, a key or table of this project's own, or search."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lora_training import families, nearest
from lora_training.config import schema as schemas
from lora_training.config import tables
from lora_training.config.schema import Flag, Schema
from lora_training.errors import ConfigError, LoraError, UpstreamError

_LONGEST = 100  # characters of a help text in a list
_ALL = "`lora config schema --script sdxl_train_network` lists the flags of a script"
_LOCAL = {"GIT_NO_LAZY_FETCH": "1"}  # do not fetch objects that a partial clone left out
_COMPARED = ("type", "default", "choices", "nargs", "action", "help")


class Patch(NamedTuple):
    """A runtime patch: its purpose, whether it is on by default, and the defaults of its settings."""

    text: str
    is_on: bool
    settings: Mapping[str, Any]


def explain(
    tree: Path, word: str, patches: Mapping[str, Patch], *, cache: Path | None = None
) -> tuple[dict[str, Any], Iterator[str]]:
    """Describe the key `word` in an upstream tree, or find keys by it: as JSON values, and as lines of text.

    Raises ConfigError, with the nearest name, if nothing has the word, and UpstreamError if the tree has no script.
    """
    key = word.lstrip("-").replace("-", "_")
    read = schemas.read_all(tree, cache=cache)
    if not read:
        raise UpstreamError(f"no training script in {tree}", hint="run `lora upstream sync`")
    flags = _having(read, key)
    datasets = {table: takes for table, name, takes in _dataset_keys(next(iter(read.values()))) if name == key}
    home = tables.table_of(key)
    if not flags and not datasets and not home:
        if found := _search(read.values(), word, patches):
            return {"key": word, "found": found}, _search_lines(word, found)
        known = {name for schema in read.values() for name in schema.keys}.union(*tables.TABLES.values())
        raise ConfigError(f"upstream has no flag `{key}`", hint=nearest.hint(key, known) or _ALL)
    about = tables.TABLES[home][key] if home else {}
    versions = _versions(tree)
    described = {
        "key": key,
        "ours": {"table": home, "takes": about["takes"], "help": about["help"]} if home else None,
        "scripts": {script: flag.public() for script, flag in flags.items()},
        "dataset_tables": datasets,
        "absent": [script for script in read if script not in flags],
        "inert": {script: inert[key].reason for script in flags if key in (inert := families.of(script).inert)},
        "versions": versions,
        "changes": list(_changes(tree, key, versions, cache)),
    }
    return described, _lines(described, flags)


def _having(read: Mapping[str, Schema], key: str) -> dict[str, Flag]:
    """Return the flag of each script that has it."""
    return {script: flag for script, schema in read.items() if (flag := schema.flag(key))}


def _dataset_keys(schema: Schema) -> Iterator[tuple[str, str, str]]:
    """Yield each key of the tables of a dataset configuration: the table, the key, the values that it takes."""
    styles = schema.datasets.styles
    named = [("[general]", schema.datasets.general), ("[[datasets]]", styles["dreambooth"].dataset)]
    named += [("[[datasets.subsets]]", style.subset) for style in styles.values()]
    yield from ((name, key, str(takes)) for name, table in named for key, takes in table.keys.items())


def _lines(found: Mapping[str, Any], flags: Mapping[str, Flag]) -> Iterator[str]:
    yield found["key"]
    if own := found["ours"]:
        yield f"  in [{own['table']}], lora's own: {own['takes']}"
        yield f"    help: {own['help']}"
    for flag, scripts in _grouped((flag, script) for script, flag in flags.items()):
        yield f"  in: {scripts}"
        yield from (f"    {name}: {text}" for name, text in _facts(flag))
    for table, shape in found["dataset_tables"].items():
        yield f"  in {table}: {shape}"
    if flags and found["absent"]:
        yield f"  not in: {', '.join(found['absent'])}"
    for reason, scripts in _grouped((reason, script) for script, reason in found["inert"].items()):
        yield f"  does nothing in {scripts}: {reason}"
    if found["versions"]:
        yield f"  changes since {found['versions'][0]}:" + ("" if found["changes"] else " none")
        for what, scripts in _grouped((_in_words(change), change["script"]) for change in found["changes"]):
            yield f"    {what} in {scripts}"


def _grouped(pairs: Iterable[tuple[Any, str]]) -> Iterator[tuple[Any, str]]:
    """Yield each different first item with the second ones that it stands beside."""
    groups: dict[Any, list[str]] = {}
    for value, name in pairs:
        groups.setdefault(value, []).append(name)
    yield from ((value, ", ".join(names)) for value, names in groups.items())


def _facts(flag: Flag) -> Iterator[tuple[str, str]]:
    yield "type", "switch" if flag.is_switch else (flag.type or "str") + (" list" if flag.is_list else "")
    yield "default", "none" if flag.default is None else repr(flag.default)
    if flag.choices:
        yield "choices", ", ".join(str(choice) for choice in flag.choices if choice is not None)
    if flag.help:
        yield "help", flag.help


def _in_words(change: Mapping[str, Any]) -> str:
    fields = [
        "help reworded" if name == "help" else f"{name}: {old!r} -> {new!r}"
        for name, (old, new) in change["fields"].items()
    ]
    return f"{change['version']}: {change['what']}" + (f" ({'; '.join(fields)})" if fields else "")


# -- changes between the locally available versions of upstream


def _versions(tree: Path) -> list[str]:
    """Return the version tags whose sources are available locally, oldest first; empty without a git repository."""
    if not (tree / ".git").exists():
        return []
    from lora_training import proc, repositories

    try:
        with repositories.opened(tree) as repo:
            listed = repo.git.tag("--list", "v*", "--sort=creatordate", "--merged", "HEAD")
            with repo.git.custom_environment(**_LOCAL):
                is_local = partial(repo.git.succeeds, "cat-file", "-e")
                return [tag for tag in listed.split() if is_local(f"{tag}:train_network.py")]
    except proc.ProcError:
        return []


def _changes(tree: Path, key: str, versions: Sequence[str], cache: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the changes of a flag from version to version, up to the tree as it is now; unreadable ones are left out.

    Each is `added`, `removed`, or `changed`, with the old and the new value of each field.
    """
    before: dict[str, Flag] | None = None
    for version in (*versions, None):
        try:
            with nullcontext(tree) if version is None else _checked_out(tree, version) as folder:
                after = _having(schemas.read_all(folder, cache=cache), key)
        except (LoraError, OSError, tarfile.TarError):
            continue
        for script in sorted({*before, *after}) if before is not None else ():
            old, new = before.get(script) if before else None, after.get(script)
            named = ((name, (getattr(old, name), getattr(new, name))) for name in _COMPARED if old and new)
            fields = {name: values for name, values in named if values[0] != values[1]}
            if fields or not (old and new):
                what = "changed" if fields else "removed" if old else "added"
                yield {"version": version or "the pinned tree", "script": script, "what": what, "fields": fields}
        before = after


@contextmanager
def _checked_out(tree: Path, version: str) -> Iterator[Path]:
    """Check out the Python files that scripts may import, at one version, into a temporary folder."""
    paths = (":(glob)*.py", ":(glob)library/**/*.py")
    from lora_training import repositories

    with repositories.opened(tree) as repo:
        data = repo.git.archive("--format=tar", version, "--", *paths, env=_LOCAL, **repositories.RAW)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            target = Path(folder, member.name)
            file = archive.extractfile(member) if member.isfile() and ".." not in target.parts else None
            if file is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read())
        yield Path(folder)


# -- this project's own tables, and the search


def table(key: str, patches: Mapping[str, Patch]) -> tuple[dict[str, Any], Iterator[str]] | None:
    """Describe a table, as JSON values and as lines of text: its help, and each key with its type, help and default.

    `key` is the name of a table, with or without brackets, or of a runtime patch; `patches` has all of these.
    """
    name = key.strip("[]")
    patch = name.removeprefix("runtime.").replace("_", "-")
    text: str | None = None
    facts: list[tuple[str, str | None, str | None, Any]]
    if name in tables.TABLES:
        facts = [(each, about["takes"], about["help"], None) for each, about in tables.TABLES[name].items()]
    elif name == "runtime":
        text = "changes made in the training process; see PATCHES.md"
        facts = [(each, "true, false or a table", about.text, about.is_on) for each, about in patches.items()]
    elif patch in patches:
        name, text = f"runtime.{patch}", patches[patch].text
        facts = [(each, None, None, default) for each, default in patches[patch].settings.items()]
    else:
        return None
    keys = {each: {"takes": takes, "help": about, "default": default} for each, takes, about, default in facts}
    found = {"table": name, "help": text, "keys": keys}
    return found, _table_lines(found)


def _table_lines(found: Mapping[str, Any]) -> Iterator[str]:
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


def _search(read: Iterable[Schema], word: str, patches: Mapping[str, Patch]) -> dict[str, str]:
    """Return the keys with these initials, then those with the word in their name or help; each with its help."""
    known: dict[str, str] = {}
    for schema in read:
        known |= {flag.dest: flag.help or "" for flag in schema.flags}
        known |= {f"{place.strip('[]')}.{key}": takes for place, key, takes in _dataset_keys(schema)}
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


def _search_lines(word: str, found: Mapping[str, str]) -> Iterator[str]:
    yield f"no key is named {word}; these have it in their name or help:"
    for key, text in found.items():
        short = " ".join(text.split())
        yield f"  {key}: {short[:_LONGEST]}" + ("..." if len(short) > _LONGEST else "")
