"""Import the `ss_*` metadata of a trained LoRA: a configuration to train it again, as far as it is recorded."""

from __future__ import annotations

import ast
import re
from typing import Any

from lora_training import families
from lora_training.config.importers.draft import Draft, from_json, literal, plain_word

KIND = "a LoRA's metadata"
_RENAMED = {
    "ss_num_epochs": "max_train_epochs",
    "ss_debiased_estimation": "debiased_estimation_loss",
    "ss_batch_size_per_device": "train_batch_size",
}
_MODELS = {"ss_sd_model_name": "pretrained_model_name_or_path", "ss_vae_name": "vae"}
# family by a part of the base model's version, or of the network's module: that of SD 3 is only "5-medium" and the like
_VERSIONS = {"sdxl": "sdxl", "sd3": "sd3", "flux": "flux", "chroma": "flux", "lumina": "lumina"}
_VERSIONS |= {"hunyuan": "hunyuan_image", "anima": "anima", "sd_": ""}
_RECORDS = re.compile(
    r"ss_(session_id|training_(started|finished)_at|num_\w*images|num_batches_per_epoch|steps|epoch|tag_frequency|"
    r"bucket_info|\w*hash\w*|total_batch_size|dataset_dirs|reg_dataset_dirs|base_model_version)"
)
_DATASET_KEYS = ("resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "resize_interpolation")
_LONGEST = 10_000  # characters of an optimizer's arguments


def script(content: dict[str, Any]) -> str | None:
    """Return the script for the recorded base model; None if it is not recorded."""
    told = f"{content.get('ss_base_model_version', '')} {content.get('ss_network_module', '')}".lower()
    name = next((name for mark, name in _VERSIONS.items() if mark in told), None)
    return None if name is None else families.script_of(name)


def guess(_content: dict[str, Any]) -> str:
    """Return the script for SD 1.x and 2.x: the oldest files have no version of the base model."""
    return families.script_of("")


def convert(content: dict[str, Any], draft: Draft) -> None:
    """Import the metadata into `draft`."""
    for key, text in content.items():
        _take(key, text, content, draft)
    if not draft.datasets:
        _folders(content, draft)
    draft.lost("(not recorded)", "output_dir, caption_extension, and what only concerns memory or speed")


def _take(key: str, text: str, content: dict[str, Any], draft: Draft) -> None:
    if key == "ss_datasets":
        _datasets(key, text, draft)
    elif key == "ss_network_args":
        _network_args(key, text, draft)
    elif key == "ss_optimizer":
        _optimizer(key, text, draft)
    elif key == "ss_num_epochs" and "ss_max_train_steps" in content:
        draft.left_out(key, "max_train_steps counts")
    elif key == "ss_base_model_version":
        draft.took(key, "script", draft.schema.script)
        if text.startswith("sd_") and text.endswith("_v"):
            draft.values["v_parameterization"] = True
    elif _RECORDS.fullmatch(key):
        draft.left_out(key, "a record of the run, no setting")
    elif key in _MODELS:
        draft.flag(key, text, to=_MODELS[key], note="only the name is recorded: give its path")
    elif key == "ss_resolution":
        draft.flag(key, text.strip("()[] ").replace(" ", ""), to="resolution")
    else:
        # written with `str()`: None, a boolean, a number or a list; other values are text
        draft.flag(key, literal(text), to=_RENAMED.get(key, key.removeprefix("ss_")))


def _network_args(key: str, text: str, draft: Draft) -> None:
    found = from_json(text)
    if not isinstance(found, dict):
        draft.lost(key, "not readable")
        return
    kept = {name: plain_word(value) if isinstance(value, str) else value for name, value in found.items()}
    draft.network_args |= {name: value for name, value in kept.items() if value is not None}
    draft.took(key, "network_args")


def _optimizer(key: str, text: str, draft: Draft) -> None:
    """Import an optimizer such as `torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))`."""
    name, _, arguments = text.partition("(")
    module, _, cls = name.rpartition(".")
    known = module.startswith(("torch.optim", "bitsandbytes", "prodigyopt", "lion_pytorch", "dadaptation"))
    draft.flag(key, cls if known or not module or module.startswith("transformers") else name, to="optimizer_type")
    words = _arguments(arguments.removesuffix(")"))
    if words is None:
        draft.lost(f"{key} (arguments)", f"not readable: {arguments}")
    elif words:
        draft.values["optimizer_args"] = words


def _arguments(text: str) -> list[str] | None:
    if len(text) > _LONGEST:
        return None
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    if not isinstance(call, ast.Call):
        return None
    return [f"{word.arg}={ast.unparse(word.value).replace(' ', '')}" for word in call.keywords if word.arg]


def _datasets(key: str, text: str, draft: Draft) -> None:
    found = from_json(text)
    if not isinstance(found, list):
        draft.lost(key, "not readable")
        return
    draft.datasets += [_dataset(item) for item in found if isinstance(item, dict)]
    draft.took(key, "datasets", "only the folders' names are recorded: give their paths")


def _dataset(raw: dict[str, Any]) -> dict[str, Any]:
    kept = {key: raw[key] for key in _DATASET_KEYS if raw.get(key) is not None}
    if isinstance(raw.get("batch_size_per_device"), int):
        kept["batch_size"] = raw["batch_size_per_device"]
    subsets = raw.get("subsets")
    tables = [s for s in subsets if isinstance(s, dict)] if isinstance(subsets, list) else []
    given = [{key: value for key, value in table.items() if value not in (None, False)} for table in tables]
    return {**kept, "subsets": [{key: table[key] for key in table if key != "img_count"} for table in given]}


def _folders(content: dict[str, Any], draft: Draft) -> None:
    """Import the folders of `train_data_dir` and their repeats, for metadata without datasets."""
    subsets = []
    for key, reg in (("ss_dataset_dirs", False), ("ss_reg_dataset_dirs", True)):
        found = from_json(content.get(key, "{}"))
        for name, info in found.items() if isinstance(found, dict) else ():
            repeats = info.get("n_repeats") if isinstance(info, dict) else None
            words = name.partition("_")[2]
            table: dict[str, Any] = {"image_dir": name, "num_repeats": repeats if isinstance(repeats, int) else 1}
            subsets.append(table | ({"class_tokens": words} if words else {}) | ({"is_reg": True} if reg else {}))
    if subsets:
        draft.datasets.append({"subsets": subsets})
        draft.rows = [row for row in draft.rows if row.key not in ("ss_dataset_dirs", "ss_reg_dataset_dirs")]
        draft.took("ss_dataset_dirs", "datasets", "only the folders' names are recorded: give their paths")
