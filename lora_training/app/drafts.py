"""Configurations of `configs/` as the page edits them: by plain file name, and never written over unasked."""

from __future__ import annotations

import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training.app.checkout import Checkout
from lora_training.config import document, form, importers, presets
from lora_training.config import schema as schemas
from lora_training.config.editing import ConfigText
from lora_training.errors import ConfigError
from lora_training.runtime import registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_training.config.schema import Schema
    from lora_training.problems import Problem
    from lora_training.workspace import Workspace

_NAME = re.compile(r"\w[\w.-]{0,99}")
# anything else is a command line
_DOCUMENTS = (".json", ".toml", ".yaml", ".yml")


@dataclass(frozen=True)
class Shown:
    """A configuration as the page shows it: its text, the text of each field, its problems, and its form."""

    text: str
    values: dict[str, str]
    problems: list[dict[str, Any]]
    groups: list[form.Group]
    script: str


def folder(here: Workspace) -> Path:
    """Return the folder of the configurations."""
    return here.root / "configs"


def names(here: Workspace) -> tuple[str, ...]:
    """Return the names of the configurations, without `.toml`, sorted."""
    return tuple(name for name in presets.names(folder(here)) if _NAME.fullmatch(name))


def scripts(here: Workspace) -> tuple[str, ...]:
    """Return the names of upstream's scripts."""
    return schemas.scripts(here.upstream("sd-scripts").path)


def find(here: Workspace, name: str) -> Path:
    """Return the file of a configuration. Raises ConfigError if there is none."""
    if name not in names(here):
        raise ConfigError(f"there is no configuration {name!r} in {folder(here)}")
    return folder(here) / f"{name}.toml"


def read(here: Workspace, name: str) -> tuple[str, str]:
    """Return the text of a configuration and its digest, which `save` compares."""
    text = document.text_of(find(here, name))
    return text, _digest(text)


def new(here: Workspace, preset: str, name: str) -> str:
    """Return the text of a new configuration from a preset, whose LoRA has the configuration's name."""
    return presets.fill(find(here, preset), {"output_name": name}, ())


def show(here: Workspace, name: str, text: str, edits: Sequence[dict[str, Any]] = ()) -> Shown:
    """Return a text with edits applied. Each edit has `id` with `text` (null removes the key), `add` or `remove`."""
    checkout = Checkout(None)
    draft = ConfigText(f"{name}.toml", text)
    schema = _schema(checkout, draft)
    for edit in edits:
        _apply(draft, schema, edit)
        schema = _schema(checkout, draft)
    runtime = {name: patch.on_by_default for name, patch in registry.available().items()}
    groups = form.groups(schema, draft.datasets(), runtime) if schema else []
    places = dict.fromkeys(schema.keys) | draft.flags() if schema else {}
    shown = {each.id: places.get(each.id, form.path_of(each.id)) for group in groups for each in group.fields}
    values = {ident: value for ident, path in shown.items() if path and (value := draft.shown(path)) is not None}
    problems = checkout.check(folder(here) / f"{name}.toml", (), lambda _text: None, quick=True, text=draft.text)
    return Shown(draft.text, values, [_problem(each) for each in problems], groups, draft.script)


def _schema(checkout: Checkout, draft: ConfigText) -> Schema | None:
    known = schemas.scripts(checkout.tree)
    return checkout.schema(draft.script) if draft.script in known else None


def _apply(draft: ConfigText, schema: Schema | None, edit: dict[str, Any]) -> None:
    ident = edit.get("id")
    text = edit.get("text")
    if not isinstance(ident, str) or not (text is None or isinstance(text, str)):
        raise ConfigError("an edit must name a field and its text")
    try:
        if edit.get("do") == "add":
            draft.add(form.path_of(ident))
        elif edit.get("do") == "remove":
            draft.remove(form.path_of(ident))
        elif ident == "script":
            draft.set(("script",), text, is_text=True)
        elif schema and ident in schema.keys:
            path = draft.place(ident, form.beside(schema, ident), form.home(schema.keys[ident]))
            draft.set(path, text, is_text=schema.keys[ident].takes_text)
        else:
            groups = form.groups(schema, draft.datasets(), {}) if schema else []
            is_text = any(each.id == ident and each.is_text for group in groups for each in group.fields)
            draft.set(form.path_of(ident), text, is_text=is_text)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        raise ConfigError(f"{ident} has no place in this configuration") from exc


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "id": form.ident_of(problem.key),
        "severity": problem.severity,
        "line": problem.position.line if problem.position else None,
        "message": problem.message,
        "hint": problem.hint,
    }


def save(here: Workspace, name: str, text: str, known: str | None) -> str:
    """Write a configuration and return its digest; `known` is the digest of the file to replace (None: a new file)."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a configuration", hint="letters, digits, `-`, `_` and `.`")
    path = folder(here) / f"{name}.toml"
    if os.path.lexists(path) and (known is None or _digest(document.text_of(path)) != known):
        why = "exists" if known is None else "has been changed by somebody else in the meantime"
        raise ConfigError(f"{path.name} {why}", hint="choose another name, or open it again")
    document.write(path, text, force=True)
    return _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def convert(filename: str, text: str) -> tuple[str, list[str]]:
    """Convert another trainer's file to a configuration, with a report on each of its keys."""
    suffix = Path(filename).suffix.lower() or (".json" if text.lstrip().startswith("{") else "")
    if suffix in _DOCUMENTS:
        source = importers.from_text(Path(Path(filename).name or "the text"), suffix, text)
    else:
        source = importers.read(Path("-"), io.BytesIO(text.encode("utf-8", "surrogateescape")))
    imported = importers.convert(source, Checkout(None).schema)
    report = [f"{row.outcome}: {row.key}" + (f" -> {row.to}" if row.to else "") for row in imported.rows]
    return imported.toml(), report
