"""A one-sentence summary of a configuration's uploads, downloads and permission to run code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.config import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.model import Config
    from lora_training.config.schema import Schema

_HUB_KEYS = ("_or_path", "vae", "text_encoder", "byt5", "gemma2")


def sentence(config: Config, schema: Schema) -> str | None:
    """Return the summary, without any secret; None if there is nothing to report."""
    parts = [*_sent(config), *_fetched(config, schema), *_run(config)]
    return f"this configuration {'; '.join(parts)}" if parts else None


def is_hub_id(key: str, value: str, config: Config) -> bool:
    """Whether upstream would look for the value of `key` on the hub: `org/name`, and no such local path."""
    plain = value.count("/") == 1 and key.endswith(_HUB_KEYS) and not paths.looks_like_path(value)
    return plain and not paths.exists(config.folder / value)


def _sent(config: Config) -> Iterator[str]:
    values = config.values
    if values.get("huggingface_repo_id"):
        seen = "public" if values.get("huggingface_repo_visibility") == "public" else "private"
        what = "every LoRA and state" if values.get("save_state_to_huggingface") is True else "every LoRA"
        later = ", while it trains on" if values.get("async_upload") is True else ""
        yield f"sends {what} to {values['huggingface_repo_id']} on the Hugging Face hub ({seen}{later})"
    if values.get("log_with") in ("wandb", "all"):
        yield "sends its settings, figures and samples to wandb"
    thumbnail = values.get("metadata_thumbnail")
    if isinstance(thumbnail, str) and thumbnail and not thumbnail.startswith("data:"):
        yield f"puts the whole of {thumbnail} into the LoRA"


def _fetched(config: Config, schema: Schema) -> Iterator[str]:
    for key, value in config.values.items():
        flag = schema.flag(key)
        if flag and paths.is_path(flag) and isinstance(value, str) and is_hub_id(flag.dest, value, config):
            yield f"fetches {value} from the Hugging Face hub"


def _run(config: Config) -> Iterator[str]:
    if config.run.allow_pickle:
        yield "lets pickled weights run code"
