"""The form of a configuration: a field for every flag of a script, as its own parser has them, and for our tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_training.config import loading, tables
from lora_training.config.argv import REFUSED
from lora_training.config.positions import Path as KeyPath
from lora_training.config.schema import Flag, Schema, Shape

# what most people set, in this order; a flag that a script does not have is passed over
ESSENTIAL = (
    *("pretrained_model_name_or_path", "output_name", "output_dir", "network_dim", "network_alpha", "learning_rate"),
    *("optimizer_type", "max_train_steps", "max_train_epochs", "save_every_n_steps", "save_state", "mixed_precision"),
    *("sample_prompts", "sample_every_n_steps", "sample_at_first", "seed"),
)
_ESSENTIAL_OURS = (("run", "resume"), ("launch", "num_processes"), ("launch", "gpu_ids"))
_SCOPE = ("runtime", "dataset-loss", "loss_scope")
_LOSS = ("loss_weight", "lambda_struct", "lambda_light", "lambda_color", "lambda_tex")
# of a dataset and a subset, the first ones of the form
_FIRST_OF_DATASET = ("resolution", "batch_size", "enable_bucket", "bucket_no_upscale")
_FIRST_OF_SUBSET = ("image_dir", "num_repeats", "caption_extension", "class_tokens", "shuffle_caption", "keep_tokens")
_SWITCH = ("true", "false")


@dataclass(frozen=True)
class Field:
    """A field. `id` is its path, joined by `/`, and of a flag its key. `choices` make it a list to choose from."""

    id: str
    label: str
    help: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()
    is_number: bool = False
    is_text: bool = False


@dataclass(frozen=True)
class Group:
    """The fields under one heading. `path` is the place of a dataset or subset that can be removed.

    The first `shown` of them (0: all) are always in sight.
    """

    title: str
    fields: tuple[Field, ...]
    path: str = ""
    is_essential: bool = False
    shown: int = 0


def groups(schema: Schema, datasets: Sequence[int], runtime: Mapping[str, bool]) -> list[Group]:
    """Return the form for a script: what most people set, the datasets, then each flag once, then our tables.

    `datasets` has the number of subsets of each dataset; `runtime` tells which patches are on by default.
    """
    flags = {key: flag for key, flag in schema.keys.items() if key not in REFUSED}
    first = [_flag(flags[key]) for key in ESSENTIAL if key in flags]
    first += [_own(*path) for path in _ESSENTIAL_OURS]
    scope = Field("/".join(_SCOPE), "loss_scope", "how loss_weight is applied", "global", ("global", "per_dataset"))
    found = [Group("Essentials", (*first, scope), is_essential=True)]
    found += _datasets(schema, datasets)
    homes = {home(flag): None for flag in flags.values()}
    for title in homes:
        fields = [_flag(flag) for key, flag in flags.items() if home(flag) == title and key not in ESSENTIAL]
        found.append(Group(title.replace("_", " "), tuple(fields)))
    for table, keys in tables.TABLES.items():
        own = (_own(table, key) for key in keys if (table, key) not in _ESSENTIAL_OURS)
        found.append(Group(table, tuple(own)))
    patches = [Field(f"runtime/{name}", name, default="on" if on else "off") for name, on in runtime.items()]
    return [*found, Group("runtime patches", tuple(patches))]


def home(flag: Flag) -> str:
    """Return the table for a flag, named after the function of upstream's that adds it."""
    name = (flag.defined_in or "other").removeprefix("add_").removesuffix("_arguments")
    return "training" if name == "setup_parser" else name


def beside(schema: Schema, key: str) -> tuple[str, ...]:
    """Return the flags that the same function of upstream's adds."""
    flag = schema.keys[key]
    return tuple(each.dest for each in schema.flags if each.defined_in == flag.defined_in)


def path_of(ident: str) -> KeyPath:
    """Return the path of a field that is no flag."""
    return loading.numbered(ident.split("/"))


def ident_of(key: str | None) -> str | None:
    """Return the field that a problem's key is about."""
    if key is None:
        return None
    first, *rest = key.split(".")
    return "/".join((first, *rest)) if first in loading.TABLES and rest else (rest[-1] if rest else first)


def _flag(flag: Flag) -> Field:
    choices = _SWITCH if flag.is_switch else tuple(str(each) for each in flag.choices or () if each is not None)
    default = "" if flag.default is None else _word(flag.default)
    is_number = flag.type in ("int", "float") and not flag.is_list
    shown = () if flag.is_list else choices
    return Field(flag.dest, flag.dest, flag.help or "", default, shown, is_number, flag.takes_text)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _own(table: str, key: str) -> Field:
    about = tables.TABLES[table][key]
    choices = _SWITCH if about["schema"].get("type") == "boolean" else tuple(about["schema"].get("enum", ()))
    return Field(f"{table}/{key}", key, f"{about['help']}: {about['takes']}", choices=choices, is_text=key == "resume")


def _datasets(schema: Schema, counts: Sequence[int]) -> Iterator[Group]:
    style = schema.datasets.styles["dreambooth"]
    subset = {key: shape for each in schema.datasets.styles.values() for key, shape in each.subset.keys.items()}
    for number, count in enumerate(counts):
        path = f"datasets/{number}"
        title = f"Data set {number + 1}"
        fields = _shapes(schema, path, style.dataset.keys, _FIRST_OF_DATASET)
        yield Group(title, fields, path, is_essential=True, shown=len(_FIRST_OF_DATASET))
        for at in range(count):
            inner = f"{path}/subsets/{at}"
            loss = (Field(f"{inner}/custom_attributes/{key}", key, is_number=True) for key in _LOSS)
            fields = _shapes(schema, inner, subset, _FIRST_OF_SUBSET)
            cut = len(_FIRST_OF_SUBSET)
            fields = (*fields[:cut], *loss, *fields[cut:])
            yield Group(f"{title}, folder {at + 1}", fields, inner, is_essential=True, shown=cut + len(_LOSS))
    if counts:
        yield Group("All data sets", _shapes(schema, "general", schema.datasets.general.keys, _FIRST_OF_DATASET))


def _shapes(schema: Schema, path: str, keys: Mapping[str, Shape], first: Sequence[str]) -> tuple[Field, ...]:
    names = [*(key for key in first if key in keys), *(key for key in keys if key not in first)]
    helps = {key: flag.help or "" for key in names if (flag := schema.keys.get(key))}
    return tuple(_shape(f"{path}/{key}", key, helps.get(key, ""), keys[key]) for key in names)


def _shape(ident: str, key: str, text: str, shape: Shape) -> Field:
    is_number = not shape.sequence and set(shape.scalars) <= {"int", "float"}
    choices = _SWITCH if shape.scalars == ("bool",) else ()
    return Field(ident, key, text, "" if choices else str(shape), choices, is_number, "str" in shape.scalars)
