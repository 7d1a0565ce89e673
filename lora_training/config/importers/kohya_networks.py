"""kohya_ss's network types: the module of each, and the GUI settings that become its arguments."""

from __future__ import annotations

from typing import Any

_KOHYA_ARGS = (
    *("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas"),
    *("conv_block_dims", "conv_block_alphas", "rank_dropout", "module_dropout"),
)
_FLUX_ARGS = (
    *("img_attn_dim", "img_mlp_dim", "img_mod_dim", "single_dim", "txt_attn_dim", "txt_mlp_dim", "txt_mod_dim"),
    *("single_mod_dim", "in_dims", "train_double_block_indices", "train_single_block_indices", "split_qkv"),
    *("train_t5xxl", "train_blocks", "ggpo_beta", "ggpo_sigma", "rank_dropout", "module_dropout"),
)
CONV = ("conv_dim", "conv_alpha")
_DROPOUT = ("rank_dropout", "module_dropout")
_LYCORIS = ("LyCORIS_preset", *CONV, "rank_dropout", "module_dropout", "rank_dropout_scale", "train_norm")
_LOKR = ("use_tucker", "use_cp", "use_scalar", "bypass_mode", "dora_wd", "factor", "decompose_both")
_LOHA = ("use_tucker", "use_scalar", "bypass_mode", "dora_wd")
_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
# type -> module, fixed arguments, GUI settings that become arguments
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "Standard": ("networks.lora", {}, (*_KOHYA_ARGS, *_PLUS)),
    "Kohya LoCon": ("networks.lora", {}, (*CONV, *_KOHYA_ARGS, *_PLUS)),
    "LoRA-FA": ("networks.lora_fa", {}, _KOHYA_ARGS),
    "Kohya DyLoRA": ("networks.dylora", {}, (*CONV, "unit", *_KOHYA_ARGS, *_PLUS)),
    "Kohya LoHa": ("networks.loha", {}, (*CONV, "use_tucker", *_DROPOUT)),
    "Kohya LoKr": ("networks.lokr", {}, (*CONV, "use_tucker", "factor", *_DROPOUT)),
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
    "LyCORIS/iA3": ("lycoris.kohya", {"algo": "ia3"}, ("LyCORIS_preset", *CONV, "train_on_input")),
    "LyCORIS/BOFT": ("lycoris.kohya", {"algo": "boft"}, (*_LYCORIS, "use_tucker")),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", {"algo": "diag-oft"}, (*_LYCORIS, "use_tucker", "constrain", "rescaled")),
    "LyCORIS/Native Fine-Tuning": ("lycoris.kohya", {"algo": "full"}, _LYCORIS),
}
ARGUMENTS = frozenset(key for _, _, keys in NETWORKS.values() for key in keys)
ARGUMENT_NAMES = {"LyCORIS_preset": "preset", "constrain": "constraint"}
