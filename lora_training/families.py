"""The properties of each of upstream's training scripts, in one record each.

Each entry was read in upstream's source at the pin. A new upstream script needs a record here and nothing else; a
script without a record is checked by its flags alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

_SUFFIX = "train_network"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
GIVE_FILE = "give the file"
# options of a data set whose default is given by a flag of another name
OPTION_FLAGS = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}
_FP8 = ("fp8_base", "fp8_base_unet")


@dataclass(frozen=True)
class Inert:
    """Why a flag that a script accepts has no effect there. `neutral`: a value that has no effect in any script."""

    reason: str
    neutral: float | None = None


@dataclass(frozen=True)
class Family:
    """The properties of one training script: the files that it loads and caches, the flags that it ignores.

    `checkpoints`: the kinds of base model that it trains, and `parts`: the kinds of text encoder or autoencoder that a
    flag takes, both in the words of `preflight.checkpoints`. `pipeline`: their class in diffusers' `model_index.json`.
    `needs`: the flags of files without which its loader fails. `pickle_unless`: it loads a base model as a pickle
    unless its name ends in `.safetensors`, after all symbolic links are followed, or one. `tokenizers`: the
    repositories on the hub that it loads them from, with the folder in them, if any; `tokenizers_v2` is used with `v2`.
    `not_adapted`: a pattern of the names of matrices to which upstream's LoRA of this family adds nothing.
    """

    script: str
    checkpoints: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pipeline: str | None = None
    needs: tuple[str, ...] = ()
    not_adapted: str | None = None
    tokenizers: tuple[str, ...] = ()
    tokenizers_v2: tuple[str, ...] = ()
    pickle_unless: Literal["resolved", "linked"] | None = None

    # Cache files: the ends of their names, and their sizes: latents in bytes per pixel of the image, with four bytes
    # per number; text encoder outputs in bytes, or in tokens of T5's width where their number can be set.
    latents: str | None = None
    reads_latents_without_size: bool = False
    latent_bytes: float = 1.0
    text_outputs: str | None = None
    text_output_bytes: int = 0
    t5_tokens: int = 0

    # How its trainer checks cached text encoder outputs: whether it refuses to train the text encoder as well, whether
    # it refuses captions that change, and whether it can drop cached captions.
    refuses_text_encoder: bool = False
    refuses_changing_captions: bool = True
    drops_cached_captions: bool = False

    # Rectified flow: no noise schedule, so no signal-to-noise ratio and no v-prediction.
    is_flow: bool = False
    swaps_blocks: bool = False
    # Flags that it does not support, with the replacement, and whether it turns them off before it checks them.
    unsupported: Mapping[str, str | None] = field(default_factory=dict)
    turns_fp8_off: bool = False
    inert: Mapping[str, Inert] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The script without `_train_network`: `flux`, `sdxl`; empty for SD 1.x and 2.x."""
        return self.script.removesuffix(_SUFFIX).removesuffix("_")


_NEVER = {"fused_backward_pass": Inert("only the full fine-tuning scripts join the backward pass to the optimizer")}
_NOISE = Inert("this family draws plain noise and interpolates it with the latents")
_LOSS = Inert("upstream does not weight this family's loss by it")
_V_PREDICTION = Inert("this family predicts a flow, not noise or velocity of a diffusion schedule")
_RANGE = "this family draws its timesteps by timestep_sampling, over the whole range"
_PERTURBED = Inert("SD3's trainer does not perturb its input")
_FLOW = {
    **_NEVER,
    "noise_offset": _NOISE,
    "noise_offset_random_strength": _NOISE,
    "adaptive_noise_scale": _NOISE,
    "multires_noise_iterations": _NOISE,
    "multires_noise_discount": _NOISE,
    "min_snr_gamma": _LOSS,
    "debiased_estimation_loss": _LOSS,
    "scale_v_pred_loss_like_noise_pred": _LOSS,
    "v_pred_like_loss": _LOSS,
    "v_parameterization": _V_PREDICTION,
    "zero_terminal_snr": _V_PREDICTION,
}
_WHOLE_RANGE = {**_FLOW, "min_timestep": Inert(_RANGE), "max_timestep": Inert(_RANGE, neutral=1000)}
# upstream takes the autoencoder out of a whole checkpoint, too
_SD_VAE = {"vae": ("the autoencoder of SD", "SD 1", "SD 2", "SDXL")}
_CLIP_L, _CLIP_G = "openai/clip-vit-large-patch14", "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
_T5 = "google/t5-v1_1-xxl"
_FLUX_AE = {"ae": ("the autoencoder of FLUX",)}

FAMILIES = (
    Family(
        "train_network",
        checkpoints=("SD 1", "SD 2"),
        parts=_SD_VAE,
        pipeline="StableDiffusionPipeline",
        tokenizers=(_CLIP_L,),
        tokenizers_v2=("stabilityai/stable-diffusion-2/tokenizer",),
        pickle_unless="resolved",
        latents="_sd.npz",
        reads_latents_without_size=True,
        latent_bytes=1 / 4,
        inert=_NEVER,
    ),
    Family(
        "sdxl_train_network",
        checkpoints=("SDXL",),
        parts=_SD_VAE,
        pipeline="StableDiffusionXLPipeline",
        tokenizers=(_CLIP_L, _CLIP_G),
        pickle_unless="linked",
        latents="_sdxl.npz",
        reads_latents_without_size=True,
        latent_bytes=1 / 4,
        text_outputs="_te_outputs.npz",
        text_output_bytes=77 * (768 + 1280) * 4,
        refuses_text_encoder=True,
        inert=_NEVER,
    ),
    Family(
        "sd3_train_network",
        checkpoints=("SD 3",),
        parts={"clip_l": ("CLIP-L",), "clip_g": ("CLIP-G",), "t5xxl": ("T5-XXL",)},
        not_adapted="final_layer",
        tokenizers=(_CLIP_L, _CLIP_G, _T5),
        latents="_sd3.npz",
        text_outputs="_sd3_te.npz",
        t5_tokens=256 + 77,
        is_flow=True,
        swaps_blocks=True,
        inert={**_FLOW, "ip_noise_gamma": _PERTURBED, "ip_noise_gamma_random_strength": _PERTURBED},
    ),
    Family(
        "flux_train_network",
        checkpoints=("FLUX", "Chroma"),
        parts={"clip_l": ("CLIP-L",), "t5xxl": ("T5-XXL",), **_FLUX_AE},
        needs=("clip_l", "t5xxl", "ae"),
        not_adapted=r"final_layer|img_in|txt_in|distilled_guidance",
        tokenizers=(_CLIP_L, _T5),
        latents="_flux.npz",
        text_outputs="_flux_te.npz",
        t5_tokens=512,
        is_flow=True,
        swaps_blocks=True,
        inert=_WHOLE_RANGE,
    ),
    Family(
        "lumina_train_network",
        checkpoints=("Lumina",),
        parts={"gemma2": ("Gemma 2",), **_FLUX_AE},
        needs=("gemma2", "ae"),
        tokenizers=("google/gemma-2-2b",),
        latents="_lumina.npz",
        text_outputs="_lumina_te.npz",
        refuses_changing_captions=False,
        is_flow=True,
        inert=_WHOLE_RANGE,
    ),
    Family(
        "hunyuan_image_train_network",
        checkpoints=("HunyuanImage",),
        parts={"text_encoder": ("Qwen2.5-VL",), "byt5": ("byT5",), "vae": ("the VAE of HunyuanImage",)},
        needs=("text_encoder", "byt5", "vae"),
        not_adapted=r"final_layer|img_in|txt_in|byt5_in",
        tokenizers=("Qwen/Qwen2.5-VL-7B-Instruct", "google/byt5-small"),
        latents="_hi.npz",
        latent_bytes=1 / 4,
        text_outputs="_hi_te.npz",
        is_flow=True,
        unsupported=dict.fromkeys(_FP8, "use fp8_scaled"),
        inert=_WHOLE_RANGE,
    ),
    Family(
        "anima_train_network",
        checkpoints=("Anima",),
        parts={"qwen3": ("Qwen3",), "vae": ("the VAE of Qwen-Image",)},
        needs=("qwen3", "vae"),
        not_adapted=r"_modulation|_embedder|final_layer|llm_adapter",
        latents="_anima.npz",
        text_outputs="_anima_te.npz",
        refuses_text_encoder=True,
        drops_cached_captions=True,
        is_flow=True,
        swaps_blocks=True,
        unsupported=dict.fromkeys(_FP8),
        turns_fp8_off=True,
        inert=_WHOLE_RANGE,
    ),
)
_SMOKE = "smoke"
# what `[run] assets` can name: the smoke run's tiny model, and those of the other families
ASSETS = (_SMOKE, f"{_SMOKE}-sd2", *(f"{_SMOKE}-{f.name.replace('_', '-')}" for f in FAMILIES if f.name))
# the ends of the names of all cache files of text encoder outputs
TEXT_OUTPUTS = tuple(family.text_outputs for family in FAMILIES if family.text_outputs)
_BY_SCRIPT = {family.script: family for family in FAMILIES}


def of(script: str) -> Family:
    """Return the record of a script, with or without `.py`; an empty record if there is none."""
    script = script.removesuffix(".py")
    return _BY_SCRIPT.get(script, Family(script))


def script_of(name: str) -> str:
    """Return the script of a family; that of SD 1.x and 2.x for the empty name."""
    return f"{name}_{_SUFFIX}" if name else _SUFFIX


def is_known(script: str) -> bool:
    """Return whether there is a record of a script."""
    return script in _BY_SCRIPT


def refused_hub_id(script: str, key: str, value: str) -> str | None:
    """Return why a flag that takes a file refuses a value, if it is a hub id; None for any other value."""
    if not is_known(script) or not HUB_ID.fullmatch(value):
        return None
    return f"`{key}`: {script} takes a file, and {value} is none"
