"""Import a preset or saved configuration of kohya_ss's LoRA tab.

The GUI does not pass on a setting of 0, even where 0 is meant; this importer keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lora_training import families
from lora_training.config.importers import command
from lora_training.config.importers.draft import Draft

KIND = "a kohya_ss configuration"
# the GUI's switch of each family, with the prefixes of its settings
_BOXES = {
    "sdxl": ("sdxl", ("sdxl_",)),
    "flux1_checkbox": ("flux", ("flux1_",)),
    "sd3_checkbox": ("sd3", ("sd3_",)),
    "hunyuan_image_checkbox": ("hunyuan_image", ("hunyuan_image_", "hunyuan_")),
    "anima_checkbox": ("anima", ("anima_",)),
    "lumina_checkbox": ("lumina", ("lumina_",)),
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
_ITS_OWN = ("model_list", "save_as_bool", "use_wandb", "gui_version", "training_preset", "noise_offset_type")
_LAUNCHER = ("dynamo_mode", "dynamo_use_dynamic", "dynamo_use_fullgraph", "extra_accelerate_launch_args")
# why a setting is left out, or is lost unless it is off
_LEFT_OUT = {
    **dict.fromkeys(_ITS_OWN, "a setting of the GUI itself"),
    "multi_gpu": "follows from [launch] num_processes",
}
_LOST = {
    **dict.fromkeys(_LAUNCHER, "a setting of the launcher that [launch] does not have"),
    "sample_prompts": "the GUI keeps the prompts in the setting; write them to a file and name it",
    "lowvram": "sd-scripts no longer has it",
}
_LAUNCH = ("num_processes", "num_machines", "main_process_port", "num_cpu_threads_per_process")
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

# -- network types: the module of each, and the settings that become its arguments

_KOHYA_ARGS = (
    *("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas"),
    *("conv_block_dims", "conv_block_alphas", "rank_dropout", "module_dropout"),
)
_FLUX_ARGS = (
    *("img_attn_dim", "img_mlp_dim", "img_mod_dim", "single_dim", "txt_attn_dim", "txt_mlp_dim", "txt_mod_dim"),
    *("single_mod_dim", "in_dims", "train_double_block_indices", "train_single_block_indices", "split_qkv"),
    *("train_t5xxl", "train_blocks", "ggpo_beta", "ggpo_sigma", "rank_dropout", "module_dropout"),
)
_CONV = ("conv_dim", "conv_alpha")
_DROPOUT = ("rank_dropout", "module_dropout")
_LYCORIS = ("LyCORIS_preset", *_CONV, "rank_dropout", "module_dropout", "rank_dropout_scale", "train_norm")
_LOKR = ("use_tucker", "use_cp", "use_scalar", "bypass_mode", "dora_wd", "factor", "decompose_both")
_LOHA = ("use_tucker", "use_scalar", "bypass_mode", "dora_wd")
_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
# type -> module, fixed arguments, GUI settings that become arguments
_NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "Standard": ("networks.lora", {}, (*_KOHYA_ARGS, *_PLUS)),
    "Kohya LoCon": ("networks.lora", {}, (*_CONV, *_KOHYA_ARGS, *_PLUS)),
    "LoRA-FA": ("networks.lora_fa", {}, _KOHYA_ARGS),
    "Kohya DyLoRA": ("networks.dylora", {}, (*_CONV, "unit", *_KOHYA_ARGS, *_PLUS)),
    "Kohya LoHa": ("networks.loha", {}, (*_CONV, "use_tucker", *_DROPOUT)),
    "Kohya LoKr": ("networks.lokr", {}, (*_CONV, "use_tucker", "factor", *_DROPOUT)),
    "Flux1": ("networks.lora_flux", {}, (*_FLUX_ARGS, *_PLUS)),
    "Flux1 OFT": ("networks.oft_flux", {}, ("enable_all_linear",)),
    "HunyuanImage-2.1": ("networks.lora_hunyuan_image", {}, (*_DROPOUT, *_PLUS)),
    "Anima": ("networks.lora_anima", {}, (*_DROPOUT, *_PLUS)),
    "Lumina": ("networks.lora_lumina", {}, (*_DROPOUT, *_PLUS)),
    "LoCon": ("lycoris.kohya", {"algo": "locon"}, (*_LYCORIS, *_LOHA)),
    "LyCORIS/LoCon": ("lycoris.kohya", {"algo": "locon"}, (*_LYCORIS, *_LOHA)),
    "LyCORIS/LoHa": ("lycoris.kohya", {"algo": "loha"}, (*_LYCORIS, *_LOHA)),
    "LyCORIS/LoKr": ("lycoris.kohya", {"algo": "lokr"}, (*_LYCORIS, *_LOKR)),
    "LyCORIS/DyLoRA": ("lycoris.kohya", {"algo": "dylora"}, (*_LYCORIS, "use_tucker", "unit")),
    "LyCORIS/GLoRA": ("lycoris.kohya", {"algo": "glora"}, (*_LYCORIS, "use_tucker")),
    "LyCORIS/iA3": ("lycoris.kohya", {"algo": "ia3"}, ("LyCORIS_preset", *_CONV, "train_on_input")),
    "LyCORIS/BOFT": ("lycoris.kohya", {"algo": "boft"}, (*_LYCORIS, "use_tucker")),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", {"algo": "diag-oft"}, (*_LYCORIS, "use_tucker", "constrain", "rescaled")),
    "LyCORIS/Native Fine-Tuning": ("lycoris.kohya", {"algo": "full"}, _LYCORIS),
}
_ARGUMENTS = frozenset(key for _, _, keys in _NETWORKS.values() for key in keys)
_ARGUMENT_NAMES = {"LyCORIS_preset": "preset", "constrain": "constraint"}


def script(content: dict[str, Any]) -> str:
    """Return the script that the GUI would start."""
    return families.script_of(next((name for box, (name, _) in _BOXES.items() if content.get(box) is True), ""))


def convert(content: dict[str, Any], draft: Draft) -> None:
    """Import the GUI's settings into `draft`."""
    gui = _Gui(content, draft)
    for key, value in content.items():
        gui.take(key, value)


class _Gui:
    def __init__(self, content: dict[str, Any], draft: Draft) -> None:
        self.content = content
        self.draft = draft
        self.own = next((p for box, (_, p) in _BOXES.items() if content.get(box) is True), ())
        self.others = tuple(p for _, prefixes in _BOXES.values() for p in prefixes if p not in self.own)

    def take(self, key: str, value: Any) -> None:
        if key in _HANDLERS:
            _HANDLERS[key](self, key, value)
        elif key in _BOXES and value is True:
            self.draft.took(key, "script", self.draft.schema.script)
        elif key in _BOXES:
            self.draft.left_out(key, "off")
        elif key in _ARGUMENTS:
            self.argument(key, value)
        elif key in _LEFT_OUT:
            self.draft.left_out(key, _LEFT_OUT[key])
        elif key in _LOST and (_is_empty(value) or value == "default"):
            self.draft.left_out(key, "off")
        elif key in _LOST:
            self.draft.lost(key, _LOST[key])
        elif key not in _LAUNCH:
            self.plain(key, value)
        elif (number := _whole(value)) and (number > 1 or key == "num_cpu_threads_per_process"):
            self.draft.for_launch(key, key, number)
        else:
            self.draft.left_out(key, "as it is by default")

    def plain(self, key: str, value: Any) -> None:
        prefix = next((p for p in self.own if key.startswith(p)), None)
        to = key.removeprefix(prefix) if prefix else _RENAMED.get(key, key)
        is_unknown = self.draft.schema.flag(to) is None
        if is_unknown and prefix is None and key.startswith(self.others):
            self.draft.left_out(key, "of another model family")
        elif value is None or (isinstance(value, str) and not value.strip()):
            self.draft.left_out(key, "empty")
        elif _number(value) == 0 and to in _OFF_AT_ZERO:
            self.draft.left_out(key, "0 turns it off")
        elif is_unknown and not value:
            self.draft.left_out(key, f"off, and {self.draft.schema.script} has no such flag")
        elif is_unknown and key in _OF_FAMILIES:
            self.draft.left_out(key, "of another model family")
        else:
            self.draft.flag(key, value, to=to)

    def argument(self, key: str, value: Any) -> None:
        kind = self.content.get("LoRA_type")
        module, _, keys = _NETWORKS.get(str(kind), ("", {}, ()))
        is_off = value in ("", None, False) or (_number(value) == 0 and key not in _CONV)
        if is_off:
            self.draft.left_out(key, "off")
        elif key in keys:
            name = "block_size" if key == "unit" and module.startswith("lycoris") else _ARGUMENT_NAMES.get(key, key)
            self.draft.network(key, value, to=name)
        elif self.draft.schema.flag(key):
            self.plain(key, value)
        else:
            self.draft.left_out(key, f"has no effect on a network of type {kind}")

    # -- settings that need their own conversion

    def network_type(self, key: str, value: Any) -> None:
        if str(value) not in _NETWORKS:
            self.draft.lost(key, f"a network of type {value!r} is not known")
            return
        module, fixed, _ = _NETWORKS[str(value)]
        if value == "Standard" and (name := families.of(self.draft.schema.script).name) in ("sd3", "flux"):
            module = f"networks.lora_{name}"
        self.draft.values["network_module"] = module
        self.draft.network_args |= fixed
        self.draft.took(key, "network_module", "needs the package lycoris-lora" if "lycoris" in module else None)

    def epoch(self, key: str, value: Any) -> None:
        if _whole(self.content.get("max_train_epochs")) or _whole(self.content.get("max_train_steps")):
            self.draft.left_out(key, "max_train_epochs or max_train_steps counts")
        else:
            self.draft.flag(key, value, to="max_train_epochs")

    def warmup(self, key: str, value: Any) -> None:
        percent = _number(value)
        if not percent or _number(self.content.get("lr_warmup_steps")):
            self.draft.left_out(key, "no warm-up" if not percent else "lr_warmup_steps counts")
        else:
            self.draft.flag(key, percent / 100, to="lr_warmup_steps", note="per cent of the steps")

    def number(self, key: str, value: Any) -> None:
        if not _number(value):
            self.draft.left_out(key, "0 turns it off")
        elif key == "t5xxl_lr":
            self.draft.took(key, "text_encoder_lr")
        else:
            self.draft.flag(key, value)

    def attention(self, key: str, value: Any) -> None:
        chosen = "xformers" if value is True else str(value)
        if chosen in ("xformers", "sdpa"):
            self.draft.flag(key, value=True, to=chosen)
        else:
            self.draft.left_out(key, "no attention of its own")

    def token_length(self, key: str, value: Any) -> None:
        if str(value) == "75":
            self.draft.left_out(key, "75 is upstream's default")
        else:
            self.plain(key, value)

    def text_encoder_lr(self, key: str, value: Any) -> None:
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
            self.draft.left_out(key, "learning_rate counts")

    def noise(self, key: str, value: Any) -> None:
        kind = "Multires" if key.startswith("multires") else "Original"
        if self.content.get("noise_offset_type", kind) == kind:
            self.plain(key, value)
        else:
            self.draft.left_out(key, f"noise_offset_type is {self.content['noise_offset_type']}")

    def words(self, key: str, value: Any) -> None:
        items = value if isinstance(value, list) else str(value or "").replace('"', "").split()
        self.draft.words(key, [str(item) for item in items])

    def gpu_ids(self, key: str, value: Any) -> None:
        words = [part for part in str(value or "").split(",") if part.strip()]
        if not words:
            self.draft.left_out(key, "empty")
        elif not self.draft.gpu_ids(key, words):
            self.draft.lost(key, "not a list of numbers")

    def dynamo(self, key: str, value: Any) -> None:
        if str(value or "no") == "no":
            self.draft.left_out(key, "off")
        elif self.draft.flag(key, value):
            self.draft.values["torch_compile"] = True

    def more_arguments(self, key: str, value: Any) -> None:
        if _is_empty(value):
            self.draft.left_out(key, "empty")
        else:
            command.flags(command.split(str(value)), self.draft, prefix=f"{key} ")


_HANDLERS: dict[str, Callable[[_Gui, str, Any], None]] = {
    "LoRA_type": _Gui.network_type,
    "epoch": _Gui.epoch,
    "lr_warmup": _Gui.warmup,
    **dict.fromkeys(("lr_warmup_steps", "t5xxl_lr"), _Gui.number),
    "xformers": _Gui.attention,
    "max_token_length": _Gui.token_length,
    "text_encoder_lr": _Gui.text_encoder_lr,
    **dict.fromkeys(("noise_offset", "adaptive_noise_scale", "noise_offset_random_strength"), _Gui.noise),
    **dict.fromkeys(("multires_noise_iterations", "multires_noise_discount"), _Gui.noise),
    **dict.fromkeys(("optimizer_args", "lr_scheduler_args"), _Gui.words),
    "gpu_ids": _Gui.gpu_ids,
    "dynamo_backend": _Gui.dynamo,
    "additional_parameters": _Gui.more_arguments,
}


def _is_empty(value: Any) -> bool:
    return not str(value or "").strip()


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _whole(value: Any) -> int:
    number = _number(value)
    return int(number) if number is not None and number == number // 1 else 0
