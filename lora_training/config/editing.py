"""Edit the text of a configuration key by key: comments, order and everything else in it stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.exceptions
from tomlkit.items import AoT, Item, Table

from lora_training.config import document, loading
from lora_training.config.positions import Path as KeyPath
from lora_training.errors import ConfigError


class ConfigText:
    """The text of a configuration. Raises ConfigError if it is not valid TOML."""

    def __init__(self, name: str, text: str) -> None:
        # its limits keep odd texts away from the slower parser
        document.read(Path(name), text)
        try:
            self._doc = tomlkit.parse(text)
        except (tomlkit.exceptions.TOMLKitError, RecursionError) as exc:
            raise ConfigError(f"{name}: not valid TOML: {exc}") from None

    @property
    def text(self) -> str:
        """The text with all edits."""
        return self._doc.as_string()

    @property
    def script(self) -> str:
        """The name of upstream's script; empty if it is missing."""
        found = self._doc.get("script")
        return str(found).removesuffix(".py") if isinstance(found, str) else ""

    def datasets(self) -> list[int]:
        """Return the number of subsets of each dataset."""
        found = self._doc.get("datasets")
        tables = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
        return [len(each["subsets"]) if isinstance(each.get("subsets"), list) else 0 for each in tables]

    def flags(self) -> dict[str, KeyPath]:
        """Return the place of each of upstream's flags, by its key."""
        return {path[-1].replace("-", "_"): path for path in loading.flags(self._doc)}

    def shown(self, path: KeyPath) -> str | None:
        """Return a value as the text of a field: a string as it is, anything else as TOML; None if it is not given."""
        found = self._at(path)
        return None if found is None else _shown(found)

    def _at(self, path: KeyPath) -> Any:
        try:
            return document.value_at(self._doc, path)
        except (KeyError, IndexError, TypeError):
            return None

    def set(self, path: KeyPath, text: str | None, *, is_text: bool) -> None:
        """Set a value from the text of a field, or remove it (None). The text that it shows already changes nothing.

        `is_text` says that the key takes any string; other texts are TOML where they can be, as after `--set`.
        """
        before = self.shown(path)
        if text == before:
            return
        owner = self._owner(path[:-1])
        if text is None:
            del owner[path[-1]]
            return
        value = self._value(path, text, is_text=is_text)
        old = owner.get(path[-1]) if isinstance(owner, dict) else None
        if isinstance(old, Table) and isinstance(value, dict):
            _update(old, value)
        else:
            owner[path[-1]] = value

    def _value(self, path: KeyPath, text: str, *, is_text: bool) -> Any:
        before = self._at(path)
        is_string = before is None or isinstance(before, str)
        # a single quoted string is the string, in a field of any kind
        return text if loading.parsed(text) is None or (is_text and is_string) else tomlkit.value(text)

    def _owner(self, path: KeyPath) -> Any:
        """Return the table at a path; make it if it is missing, also in place of a switch such as `NAME = true`."""
        owner: Any = self._doc
        for part in path:
            if isinstance(part, int):
                owner = owner[part]
                continue
            if not isinstance(owner.get(part), dict | list):
                inside = isinstance(owner, tomlkit.items.InlineTable) or path[0] == "datasets"
                owner[part] = tomlkit.inline_table() if inside else tomlkit.table(is_super_table=path[-1] != part)
            owner = owner[part]
        return owner

    def place(self, key: str, near: tuple[str, ...], home: str) -> KeyPath:
        """Return where a flag is, or belongs: beside one of the flags `near`, else in the table `home`."""
        places = self.flags()
        if key in places:
            return places[key]
        beside = next((path[0] for each in near if len(path := places.get(each, ())) > 1), None)
        taken = home in loading.TABLES or not isinstance(self._doc.get(home, {}), dict)
        return (str(beside or (f"{home}_flags" if taken else home)), key)

    def add(self, path: KeyPath) -> None:
        """Append an empty table to the list at a path: a dataset, or a subset of one."""
        owner = self._owner(path[:-1])
        last = path[-1]
        if not isinstance(owner.get(last), list):
            owner[last] = tomlkit.aot()
        listed = owner[last]
        fresh = tomlkit.table() if isinstance(listed, AoT) else tomlkit.inline_table()
        listed.append(fresh)

    def remove(self, path: KeyPath) -> None:
        """Remove a table of a list."""
        del self._owner(path[:-1])[path[-1]]


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Item) and not isinstance(value, dict | list):
        return value.as_string()
    return document.toml_value(value.unwrap() if isinstance(value, Item) else value)


def _update(table: Table, value: dict[str, Any]) -> None:
    """Set the keys of a table that differ, so that the comments of the others stay."""
    for key in [key for key in table if key not in value]:
        del table[key]
    for key, each in value.items():
        if key not in table or table.unwrap()[key] != each:
            table[key] = each
