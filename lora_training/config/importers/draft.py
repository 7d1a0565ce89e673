"""Build a configuration from another trainer's file, and record the outcome of each key."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lora_training import nearest
from lora_training.config import document, encode, tables
from lora_training.config.argv import REFUSED
from lora_training.config.model import Entry
from lora_training.config.schema import Flag, Schema

# `defaulted`: left out, since it has no effect or upstream's default means the same
Outcome = Literal["mapped", "renamed", "defaulted", "lost"]
# each outcome in the report, in the order of its counts
_IN_WORDS: dict[Outcome, str] = {"mapped": "mapped", "renamed": "renamed", "defaulted": "left out", "lost": "lost"}
# what every training needs, and the flags that name data
_NEEDED = ("pretrained_model_name_or_path", "output_dir", "output_name")
_DATA = ("train_data_dir", "in_json", "dataset_config", "dataset_class")
_SEARCHES = 100
_SHOWN = 1000  # rows of a report
_DIGITS = 10
_LONGEST = 1000  # characters of a value that is parsed as a Python literal
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "")
# headings of the written file by prefixes of flag names; the first match is used
_HEADINGS = (
    ("network", ("network_", "dim_from", "base_weights", "scale_weight")),
    (
        "optimizer",
        ("optimizer", "learning_rate", "unet_lr", "text_encoder_lr", "lr_", "max_grad", "use_8bit", "use_lion"),
    ),
    (
        "model",
        ("pretrained_model", "vae", "v2", "v_param", "clip_", "t5xxl", "ae", "gemma2", "qwen3", "text_encoder", "byt5"),
    ),
    ("saving", ("output_", "save_", "no_metadata", "metadata_", "training_comment", "huggingface_")),
    ("logging", ("log_", "logging_", "wandb_", "console_log")),
    ("sampling", ("sample_",)),
    ("validation", ("validat", "max_validation")),
    (
        "images",
        ("train_data_dir", "reg_data_dir", "resolution", "enable_bucket", "min_bucket", "max_bucket", "bucket_"),
    ),
    ("captions", ("caption_", "shuffle_caption", "keep_tokens", "token_", "weighted_captions", "secondary_sep")),
)


@dataclass(frozen=True)
class Row:
    """The outcome of one key: mapped to the same name, renamed, left out, or lost."""

    key: str
    outcome: Outcome
    to: str | None = None
    note: str | None = None


class NotTaken(ValueError):
    """The flag does not accept the value."""


@dataclass
class Draft:
    """A configuration imported from another trainer's file, and the report on it. `kind` names the source format."""

    kind: str
    schema: Schema
    values: dict[str, Any] = field(default_factory=dict)
    network_args: dict[str, Any] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    general: dict[str, Any] = field(default_factory=dict)
    launch: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    unknown: int = 0  # keys that a nearest name was searched for

    def flag(self, key: str, value: Any, *, to: str | None = None, note: str | None = None) -> bool:
        """Set the flag `to` (by default the one named `key`); return whether the value was accepted."""
        flag = self.schema.flag(to or key)
        if flag is None:
            return self.no_flag(key, to or key)
        try:
            taken = typed(flag, value)
        except NotTaken as exc:
            return self.lost(key, str(exc))
        if taken is None or (flag.is_switch and taken is False):
            self.left_out(key, "not set" if taken is None else "off, as it is by default")
            return True
        if flag.dest in tables.SECRETS:
            variable = tables.SECRETS[flag.dest]
            return self.lost(key, f"a secret is not written down: give it to the environment as {variable}")
        if flag.dest in REFUSED:
            return self.lost(key, REFUSED[flag.dest])
        if flag.dest == "network_args" and isinstance(taken, list):
            pairs = (word.split("=", 1) for word in taken)
            self.network_args |= {name: plain_word(text) for name, text in pairs}
        else:
            self.values[flag.dest] = taken
        self.took(key, flag.dest, note)
        return True

    def took(self, key: str, to: str, note: str | None = None) -> None:
        """Report that a key was imported."""
        same = to in (key, key.removeprefix("ss_"), key.removeprefix("--"))
        self.rows.append(Row(key, "mapped" if same else "renamed", None if same else to, note))

    def left_out(self, key: str, note: str) -> None:
        """Report that a key is not needed: it has no effect, or upstream's default means the same."""
        self.rows.append(Row(key, "defaulted", None, note))

    def no_flag(self, key: str, name: str) -> Literal[False]:
        """Report that the script has no flag of a name, with the nearest one."""
        self.unknown += 1
        # the search is slow
        near = nearest.name(name, self.schema.keys) if self.unknown <= _SEARCHES else None
        return self.lost(
            key, f"{self.schema.script} has no flag `{name}`" + (f"; the nearest is `{near}`" if near else "")
        )

    def lost(self, key: str, note: str) -> Literal[False]:
        """Report that a key could not be imported, and why."""
        self.rows.append(Row(key, "lost", None, note))
        return False

    def for_launch(self, key: str, name: str, value: Any) -> None:
        """Set a key of `[launch]`."""
        self.launch[name] = value
        self.took(key, f"launch.{name}")

    def gpu_ids(self, key: str, words: Iterable[str]) -> bool:
        """Set `[launch] gpu_ids`; return whether all the words are numbers."""
        ids = [whole(word.strip()) for word in words]
        if None in ids:
            return False
        self.for_launch(key, "gpu_ids", list(dict.fromkeys(ids)))
        return True

    def network(self, key: str, value: Any, *, to: str) -> None:
        """Add a key=value argument of the network module."""
        parts = value if isinstance(value, list) else [value]
        if all(isinstance(part, str | bool | int | float) for part in parts):
            self.network_args[to] = value
            self.took(key, f"network_args.{to}")
        else:
            self.lost(key, f"{value!r} cannot be written as key=value")

    def words(self, key: str, items: Iterable[str], *, to: str | None = None) -> None:
        """Add `name=value` arguments to those of a flag."""
        words = [word for word in items if word]
        if not words:
            self.left_out(key, "empty")
            return
        before = self.values.get(to or key)
        self.flag(key, [*before, *words] if isinstance(before, list) else words, to=to)

    # -- the result

    def count(self, outcome: Outcome) -> int:
        """Return the number of keys with this outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def data(self) -> dict[str, Any]:
        """Return the configuration as a document."""
        data: dict[str, Any] = {"script": self.schema.script}
        for dest in (flag.dest for flag in self.schema.flags if flag.dest in self.values):
            heading = next((name for name, starts in _HEADINGS if dest.startswith(starts)), "training")
            data.setdefault(heading, {})[dest] = _without_none(self.values[dest])
        own = {"general": self.general, "datasets": self.datasets, "launch": self.launch, "runtime": self.runtime}
        return data | {name: _without_none(table) for name, table in own.items() if table}

    def toml(self) -> str:
        """Return the configuration as TOML, with the lost keys as comments at the top."""
        head = [f"Made by `lora config import` from {self.kind}."]
        lost = [f"  {row.key}: {row.note}" for row in self.rows if row.outcome == "lost"]
        head += ["Could not be carried over:", *lost[:_SHOWN]] if lost else []
        head += [f"  ... and {len(lost) - _SHOWN} more"] if len(lost) > _SHOWN else []
        return document.toml_comment(head) + "\n" + document.toml(self.data())

    def report(self) -> Iterator[str]:
        """Yield the keys, up to a thousand, in one line those with the same outcome and note; then the counts."""
        groups: dict[tuple[Outcome, str, str], list[str]] = {}
        for row in sorted(self.rows[:_SHOWN], key=lambda row: list(_IN_WORDS).index(row.outcome)):
            to, note = f" -> {row.to}" if row.to else "", f" ({row.note})" if row.note else ""
            groups.setdefault((row.outcome, to, note), []).append(row.key)
        for (outcome, to, note), keys in groups.items():
            yield f"{_IN_WORDS[outcome]:9} {', '.join(keys)}{to}{note}"
        if len(self.rows) > _SHOWN:
            yield f"... and {len(self.rows) - _SHOWN} more, which --json shows"
        counts = ", ".join(f"{self.count(outcome)} {words}" for outcome, words in _IN_WORDS.items())
        yield f"{self.kind}: {len(self.rows)} keys: {counts}"

    def next(self) -> Iterator[str]:
        """Yield the folder of numbered folders that will be trained on, and the keys still to be filled in."""
        if "train_data_dir" in self.values:
            yield f"images: {self.values['train_data_dir']}, each folder in it that is named <repeats>_<words>"
        has_data = self.datasets or any(key in self.values for key in _DATA)
        wanted = [key for key in _NEEDED if key not in self.values]
        wanted += [] if has_data else ["[[datasets]]"]
        if wanted:
            yield f"still to be filled in: {', '.join(wanted)}"

    def as_json(self) -> dict[str, Any]:
        """Return the configuration and the report as JSON values."""
        rows = [asdict(row) for row in self.rows]
        return {"kind": self.kind, "script": self.schema.script, "config": self.data(), "report": rows}


def _without_none(data: Any) -> Any:
    """Remove JSON's null values, which TOML lacks."""
    if isinstance(data, dict):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    return [_without_none(item) for item in data if item is not None] if isinstance(data, list) else data


def typed(flag: Flag, value: Any) -> Any:
    """Convert `value` to the flag's type, if nothing is lost by it; None for an unset value. Raises NotTaken."""
    if value is None or value in ("", "None"):
        return None
    if flag.is_switch:
        return _switch(flag, value)
    taken = _listed(flag, value) if flag.is_list else _scalar(flag, value)
    try:
        encode.words(flag, Entry(flag.dest, taken, ""), lambda _, path: path)
    except encode.Refused as exc:
        raise NotTaken(exc.message + (f" ({exc.hint})" if exc.hint else "")) from None
    return taken


def _switch(flag: Flag, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise NotTaken(f"`{flag.dest}` is a switch, and {value!r} neither on nor off")


def _listed(flag: Flag, value: Any) -> Any:
    if isinstance(value, str):
        value = value.replace(",", " ").split() if flag.type in ("float", "int") else value.split()
    return [_scalar(flag, item) for item in value] if isinstance(value, list | tuple) else [_scalar(flag, value)]


def _scalar(flag: Flag, value: Any) -> Any:
    if flag.type in ("int", "float"):
        return _number(flag, value)
    if flag.type_source is not None:
        return plain_word(value) if isinstance(value, str) else value
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else str(value)


def _number(flag: Flag, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise NotTaken(f"`{flag.dest}` is a number, and {value!r} is none") from None
    if flag.type == "int":
        if not number.is_integer():
            raise NotTaken(f"`{flag.dest}` is a whole number, and {value!r} is none")
        return int(number)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else number


def plain_word(text: str) -> Any:
    """Return the number that a word spells, if the conversion is exact; else the word."""
    value = literal(text)
    return value if isinstance(value, int | float) and str(value) == text else text


def literal(text: str) -> Any:
    """Parse a text as a Python literal; return the text itself if it is not one, or is too long."""
    if len(text) > _LONGEST:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def whole(text: str) -> int | None:
    """Return the number in a short text of decimal digits; None for any other text."""
    return int(text) if len(text) < _DIGITS and text.isdecimal() else None


def from_json(text: str) -> Any:
    """Parse a JSON text; None if it is invalid or has values that no valid configuration has."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if document.oddity(found) else found
