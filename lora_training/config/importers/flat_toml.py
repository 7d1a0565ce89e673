"""Import a TOML file for upstream's `--config_file`: of sd-scripts, or of lora-scripts, which adds some keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_training import families
from lora_training.config.importers.draft import Draft

KIND = "an sd-scripts or lora-scripts TOML file"
_TYPE_KEYS = ("model_train_type", "train_type")
_RENAMED = {"lr_restart_cycles": "lr_scheduler_num_cycles", "network_args_custom": "network_args"}
_RENAMED |= {"optimizer_args_custom": "optimizer_args", "prompt_file": "sample_prompts"}
_ITS_OWN = ("name", "version", "author", "description", "enable_preview", "enable_base_weight", "enable_block_weights")
_FAMILY_NAMES = {"sd": "", "lumina2": "lumina"}  # of lora-scripts, where they differ
# keys that only one family has
_MARKS = {"gemma2": "lumina", "clip_g": "sd3", "qwen3": "anima", "byt5": "hunyuan_image", "guidance_scale": "flux"}
# form settings of lora-scripts that become arguments of the network or the optimizer
_NETWORK = {
    "lycoris_algo": "algo",
    "lokr_factor": "factor",
    "dylora_unit": "unit",
    **{key: key for key in ("conv_dim", "conv_alpha", "dropout", "train_norm", "train_t5xxl")},
    **{key: key for key in ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold")},
}
_OPTIMIZER = {"prodigy_d0": "d0", "prodigy_d_coef": "d_coef"}
_PROMPTS = ("positive_prompts", "negative_prompts")
_PREVIEW = ("sample_width", "sample_height", "sample_cfg", "sample_seed", "sample_steps", "randomly_choice_prompt")
_OFF_AT_ZERO = ("save_n_epoch_ratio", "noise_offset", "min_snr_gamma", "scale_weight_norms", "network_dropout")


def script(content: dict[str, Any]) -> str | None:
    """Return the script that the file names, such as `sdxl-lora`, or that its keys imply; None if unknown."""
    found = dict(_flat(content))
    kinds = [str(found.get(key)).removesuffix("-lora").removesuffix("-dreambooth") for key in _TYPE_KEYS]
    scripts = [families.script_of(_FAMILY_NAMES.get(kind, kind)) for kind in kinds]
    scripts += [families.script_of(name) for key, name in _MARKS.items() if found.get(key)]
    return next(filter(families.is_known, scripts), None)


def guess(content: dict[str, Any]) -> str:
    """Return the most likely script: SDXL if the base model's name contains `xl`."""
    model = str(dict(_flat(content)).get("pretrained_model_name_or_path", ""))
    return families.script_of("sdxl" if "xl" in model.lower() else "")


def _flat(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every key and value; as in upstream, table names are ignored. Dataset tables are not flattened."""
    for key, value in content.items():
        if isinstance(value, dict) and key not in ("general", "network_args", "optimizer_args"):
            yield from _flat(value)
        else:
            yield key, value


def convert(content: dict[str, Any], draft: Draft) -> None:
    """Import the file's settings into `draft`."""
    for key, value in _flat(content):
        _take(key, value, draft)


def _take(key: str, value: Any, draft: Draft) -> None:
    to = _RENAMED.get(key, key)
    if key in ("datasets", "general"):
        _take_datasets(key, value, draft)
    elif key in _TYPE_KEYS:
        draft.took(key, "script", draft.schema.script)
    elif key in _ITS_OWN or key in _PREVIEW:
        draft.left_out(key, "a setting of lora-scripts itself")
    elif draft.schema.flag(to) is None and key in (*_NETWORK, *_OPTIMIZER, *_PROMPTS, "gpu_ids", "ui_custom_params"):
        _take_form(key, value, draft)
    elif value == "" and draft.schema.flag(to):
        draft.left_out(key, "empty")
    elif to in _OFF_AT_ZERO and value == 0 and not isinstance(value, bool):
        draft.left_out(key, "0 turns it off")
    elif to in ("network_args", "optimizer_args") and isinstance(value, list):
        draft.words(key, [str(item) for item in value], to=to)
    elif to in ("network_args", "optimizer_args") and isinstance(value, dict):
        if to == "network_args":
            draft.network_args |= value
        else:
            draft.values[to] = value
        draft.took(key, to)
    else:
        draft.flag(key, value, to=to)


def _take_datasets(key: str, value: Any, draft: Draft) -> None:
    if not isinstance(value, list if key == "datasets" else dict):
        draft.lost(key, "not of the form that upstream's dataset configuration has")
        return
    if key == "datasets":
        draft.datasets += [item for item in value if isinstance(item, dict)]
    else:
        draft.general |= value
    draft.took(key, key)


def _take_form(key: str, value: Any, draft: Draft) -> None:
    """Import a form setting of lora-scripts that upstream itself does not have."""
    if value in ("", 0, False, []):
        draft.left_out(key, "off")
    elif key in _NETWORK:
        draft.network(key, value, to=_NETWORK[key])
    elif key in _OPTIMIZER:
        words = draft.values.setdefault("optimizer_args", [])
        if isinstance(words, list):
            words.append(f"{_OPTIMIZER[key]}={value}")
        draft.took(key, "optimizer_args")
    elif key in _PROMPTS:
        draft.lost(key, "lora-scripts keeps the prompts in the settings; write them to a file and name it")
    elif not (key == "gpu_ids" and isinstance(value, list) and draft.gpu_ids(key, map(str, value))):
        draft.lost(key, "cannot be read; give its settings one by one")
