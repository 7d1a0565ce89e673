"""Import a preset or saved configuration of kohya_ss's LoRA tab.

The GUI does not pass on a setting of 0, even where 0 is meant; this importer keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_training.config.importers import command
from lora_training.config.importers.draft import whole
from lora_training.config.importers.kohya_networks import ARGUMENT_NAMES, ARGUMENTS, CONV, NETWORKS

if TYPE_CHECKING:
    from lora_training.config.importers.draft import Draft

KIND = "a kohya_ss configuration"
_FAMILIES = {
    "sdxl": ("sdxl_train_network", ("sdxl_",)),
    "flux1_checkbox": ("flux_train_network", ("flux1_",)),
    "sd3_checkbox": ("sd3_train_network", ("sd3_",)),
    "hunyuan_image_checkbox": ("hunyuan_image_train_network", ("hunyuan_image_", "hunyuan_")),
    "anima_checkbox": ("anima_train_network", ("anima_",)),
    "lumina_checkbox": ("lumina_train_network", ("lumina_",)),
}
_RENAMED = {"optimizer": "optimizer_type", "max_resolution": "resolution", "lora_network_weights": "network_weights"}
_OFF_AT_ZERO = frozenset(
    (
        *("adaptive_noise_scale", "noise_offset", "multires_noise_iterations", "ip_noise_gamma", "min_snr_gamma"),
        *("max_timestep", "min_timestep", "clip_skip", "max_train_epochs", "max_train_steps", "v_pred_like_loss"),
        *("sample_every_n_epochs", "sample_every_n_steps", "save_every_n_epochs", "save_every_n_steps"),
        *("save_last_n_steps", "save_last_n_steps_state", "save_last_n_epochs", "save_last_n_epochs_state"),
        *("scale_weight_norms", "seed", "vae_batch_size", "unet_lr", "blocks_to_swap", "network_dropout"),
        *("stop_text_encoder_training", "save_n_epoch_ratio", "vae_chunk_size"),
    )
)
_ITS_OWN = frozenset(("model_list", "save_as_bool", "LyCORIS_preset", "use_wandb", "gui_version", "training_preset"))
_LAUNCH = ("num_processes", "num_machines", "main_process_port", "num_cpu_threads_per_process")


def script(content: dict[str, Any]) -> str:
    """Return the script that the GUI would start."""
    return next((name for box, (name, _) in _FAMILIES.items() if content.get(box) is True), "train_network")


def convert(content: dict[str, Any], draft: Draft) -> None:
    """Import the GUI's settings into `draft`."""
    gui = _Gui(content, draft)
    for key, value in content.items():
        gui.take(key, value)


class _Gui:
    def __init__(self, content: dict[str, Any], draft: Draft) -> None:
        self.content = content
        self.draft = draft
        self.own = next((p for box, (_, p) in _FAMILIES.items() if content.get(box) is True), ())
        self.others = tuple(p for _, prefixes in _FAMILIES.values() for p in prefixes if p not in self.own)

    def take(self, key: str, value: Any) -> None:
        if key in _MEANINGS:
            getattr(self, f"_{key}")(key, value)
        elif key in _FAMILIES:
            self._family(key, value)
        elif key in ARGUMENTS:
            self._argument(key, value)
        elif key in _ITS_OWN:
            self.draft.defaulted(key, "a setting of the GUI itself")
        elif key in _LAUNCH:
            self._launch(key, value)
        else:
            self._plain(key, value)

    def _family(self, key: str, value: Any) -> None:
        if value is True:
            self.draft.took(key, "script", self.draft.schema.script)
        else:
            self.draft.defaulted(key, "off")

    def _plain(self, key: str, value: Any) -> None:
        prefix = next((p for p in self.own if key.startswith(p)), None)
        to = key.removeprefix(prefix) if prefix else _RENAMED.get(key, key)
        if prefix is None and self.draft.schema.flag(to) is None and key.startswith(self.others):
            self.draft.defaulted(key, "of another model family")
        elif value is None or (isinstance(value, str) and not value.strip()):
            self.draft.defaulted(key, "empty")
        elif _is_zero(value) and to in _OFF_AT_ZERO:
            self.draft.defaulted(key, "0 turns it off")
        elif self.draft.schema.flag(to) is None and not value:
            self.draft.defaulted(key, f"off, and {self.draft.schema.script} has no such flag")
        elif self.draft.schema.flag(to) is None and key in _OF_FAMILIES:
            self.draft.defaulted(key, "of another model family")
        else:
            self.draft.flag(key, value, to=to)

    def _argument(self, key: str, value: Any) -> None:
        module = NETWORKS.get(str(self.content.get("LoRA_type")))
        used = module is not None and key in module[2]
        empty = value in ("", None, False) or (_is_zero(value) and key not in CONV)
        if used and not empty:
            lycoris = module is not None and module[0].startswith("lycoris")
            name = "block_size" if key == "unit" and lycoris else ARGUMENT_NAMES.get(key, key)
            self.draft.network(key, value, to=name)
        elif not empty and not used and self.draft.schema.flag(key):
            self._plain(key, value)
        else:
            kind = self.content.get("LoRA_type")
            self.draft.defaulted(key, "off" if empty else f"has no effect on a network of type {kind}")

    def _launch(self, key: str, value: Any) -> None:
        number = _whole(value)
        if not number or (number == 1 and key != "num_cpu_threads_per_process"):
            self.draft.defaulted(key, "as it is by default")
            return
        self.draft.launch[key] = number
        self.draft.took(key, f"launch.{key}")

    # -- settings that need their own conversion; each method is named after its key

    def _LoRA_type(self, key: str, value: Any) -> None:  # noqa: N802 - the GUI's spelling
        known = NETWORKS.get(str(value))
        if known is None:
            self.draft.lost(key, f"a network of type {value!r} is not known")
            return
        module, fixed, _ = known
        family = {"sd3_train_network": "networks.lora_sd3", "flux_train_network": "networks.lora_flux"}
        if value == "Standard":
            module = family.get(self.draft.schema.script, module)
        self.draft.values["network_module"] = module
        self.draft.network_args |= fixed
        note = "needs the package lycoris-lora" if module.startswith("lycoris") else None
        self.draft.took(key, "network_module", note)

    def _epoch(self, key: str, value: Any) -> None:
        if _whole(self.content.get("max_train_epochs")) or _whole(self.content.get("max_train_steps")):
            self.draft.defaulted(key, "max_train_epochs or max_train_steps counts")
        else:
            self.draft.flag(key, value, to="max_train_epochs")

    def _lr_warmup(self, key: str, value: Any) -> None:
        percent = _number(value)
        if not percent or _number(self.content.get("lr_warmup_steps")):
            self.draft.defaulted(key, "no warm-up" if not percent else "lr_warmup_steps counts")
        else:
            self.draft.flag(key, percent / 100, to="lr_warmup_steps", note="per cent of the steps")

    def _lr_warmup_steps(self, key: str, value: Any) -> None:
        if _number(value):
            self.draft.flag(key, value)
        else:
            self.draft.defaulted(key, "0 turns it off")

    def _xformers(self, key: str, value: Any) -> None:
        chosen = "xformers" if value is True else str(value)
        if chosen in ("xformers", "sdpa"):
            self.draft.flag(key, value=True, to=chosen)
        else:
            self.draft.defaulted(key, "no attention of its own")

    def _max_token_length(self, key: str, value: Any) -> None:
        if str(value) == "75":
            self.draft.defaulted(key, "75 is upstream's default")
        else:
            self._plain(key, value)

    def _text_encoder_lr(self, key: str, value: Any) -> None:
        rates = [rate for rate in (_number(value), _number(self.content.get("t5xxl_lr"))) if rate]
        unet = _number(self.content.get("unet_lr"))
        if rates:
            self.draft.flag(key, rates)
            if not unet:
                self.draft.values["network_train_text_encoder_only"] = True
        elif unet:
            self.draft.values["network_train_unet_only"] = True
            self.draft.took(key, "network_train_unet_only", "0 with a unet_lr: the GUI then trains the U-Net only")
        else:
            self.draft.defaulted(key, "learning_rate counts")

    def _t5xxl_lr(self, key: str, value: Any) -> None:
        if _number(value):
            self.draft.took(key, "text_encoder_lr")
        else:
            self.draft.defaulted(key, "0 turns it off")

    def _noise_offset_type(self, key: str, value: Any) -> None:
        self.draft.defaulted(key, f"a choice of the GUI: {value}")

    def _noise_offset(self, key: str, value: Any) -> None:
        self._of_noise("Original", key, value)

    _adaptive_noise_scale = _noise_offset
    _noise_offset_random_strength = _noise_offset

    def _multires_noise_iterations(self, key: str, value: Any) -> None:
        self._of_noise("Multires", key, value)

    _multires_noise_discount = _multires_noise_iterations

    def _of_noise(self, kind: str, key: str, value: Any) -> None:
        if self.content.get("noise_offset_type", kind) == kind:
            self._plain(key, value)
        else:
            self.draft.defaulted(key, f"noise_offset_type is {self.content['noise_offset_type']}")

    def _split(self, key: str, value: Any) -> None:
        items = value if isinstance(value, list) else str(value or "").replace('"', "").split()
        self.draft.words(key, [str(item) for item in items])

    _optimizer_args = _split
    _lr_scheduler_args = _split

    def _sample_prompts(self, key: str, value: Any) -> None:
        if str(value or "").strip():
            self.draft.lost(key, "the GUI keeps the prompts in the setting; write them to a file and name it")
        else:
            self.draft.defaulted(key, "empty")

    def _gpu_ids(self, key: str, value: Any) -> None:
        ids = [part.strip() for part in str(value or "").split(",") if part.strip()]
        if ids and None not in (numbers := [whole(part) for part in ids]):
            self.draft.launch["gpu_ids"] = list(dict.fromkeys(numbers))
            self.draft.took(key, "launch.gpu_ids")
        elif ids:
            self.draft.lost(key, "not a list of numbers")
        else:
            self.draft.defaulted(key, "empty")

    def _multi_gpu(self, key: str, value: Any) -> None:
        self.draft.defaulted(key, "off" if not value else "follows from [launch] num_processes")

    def _dynamo_backend(self, key: str, value: Any) -> None:
        if str(value or "no") == "no":
            self.draft.defaulted(key, "off")
        elif self.draft.flag(key, value):
            self.draft.values["torch_compile"] = True

    def _launcher_only(self, key: str, value: Any) -> None:
        if value in ("", None, False, "default"):
            self.draft.defaulted(key, "as it is by default")
        else:
            self.draft.lost(key, "a setting of the launcher that [launch] does not have")

    _dynamo_mode = _launcher_only
    _dynamo_use_dynamic = _launcher_only
    _dynamo_use_fullgraph = _launcher_only
    _extra_accelerate_launch_args = _launcher_only

    def _additional_parameters(self, key: str, value: Any) -> None:
        if str(value or "").strip():
            command.flags(command.split(str(value)), self.draft, prefix=f"{key} ")
        else:
            self.draft.defaulted(key, "empty")

    def _resume_from_huggingface(self, key: str, value: Any) -> None:
        self.draft.flag(key, bool(value))

    def _lowvram(self, key: str, value: Any) -> None:
        if value:
            self.draft.lost(key, "sd-scripts no longer has it")
        else:
            self.draft.defaulted(key, "off")


# keys that have a method
_MEANINGS = frozenset(
    (
        *("LoRA_type", "epoch", "lr_warmup", "lr_warmup_steps", "xformers", "max_token_length", "text_encoder_lr"),
        *("t5xxl_lr", "noise_offset_type", "noise_offset", "adaptive_noise_scale", "noise_offset_random_strength"),
        *("multires_noise_iterations", "multires_noise_discount", "optimizer_args", "lr_scheduler_args"),
        *("sample_prompts", "gpu_ids", "multi_gpu", "dynamo_backend", "dynamo_mode", "dynamo_use_dynamic"),
        *("dynamo_use_fullgraph", "extra_accelerate_launch_args", "additional_parameters"),
        *("resume_from_huggingface", "lowvram"),
    )
)

# settings that the GUI saves for every family but passes on for one only
_OF_FAMILIES = frozenset(
    (
        *("guidance_scale", "t5xxl_max_token_length", "discrete_flow_shift", "model_prediction_type", "clip_g"),
        *("timestep_sampling", "apply_t5_attn_mask", "split_mode", "mem_eff_save", "ae", "clip_l", "t5xxl"),
        *("weighting_scheme", "logit_mean", "logit_std", "mode_scale", "single_blocks_to_swap"),
        *("double_blocks_to_swap", "clip_g_dropout_rate", "pos_emb_random_crop_rate", "save_clip", "save_t5xxl"),
        *("t5xxl_device", "t5xxl_dtype", "blockwise_fused_optimizers", "fused_optimizer_groups"),
    )
)


def _is_zero(value: Any) -> bool:
    return _number(value) == 0


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _whole(value: Any) -> int:
    number = _number(value)
    return int(number) if number is not None and number == number // 1 else 0
