"""Let every family train with a tiny model, so that a run on a CPU takes seconds.

Upstream has the sizes of most models in its own source. They are made smaller after a module's import, in one of three
ways: a variable of the module gets another value, a constructor other arguments, or a function other literals.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from lora_training.runtime import verify
from lora_training.runtime.model import NoSettings, RuntimePatch, Target, wrap_function

# widths: CLIP-L, the larger CLIPs, T5 and Gemma, Qwen3, and transformers whose heads are 128 wide
CLIP, LARGE_CLIP, T5, QWEN3, WIDE = 32, 64, 128, 64, 256
# of the tokenizers that the smoke run trains itself
VOCABULARY = 1024
_CLIP_L = 768  # its width
_TWO_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


@dataclass(frozen=True)
class Variable:
    """Replace the variable that the row names by `value`, or by what `value` makes of it."""

    value: Any

    def __call__(self, module: ModuleType, name: str) -> None:
        """Change the variable `name`."""
        vars(module)[name] = self.value(vars(module)[name]) if callable(self.value) else self.value


@dataclass(frozen=True)
class Arguments:
    """Call `function` of the module with these keyword arguments, or with those made of the given ones."""

    function: str
    values: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]

    def __call__(self, module: ModuleType, _name: str) -> None:
        """Wrap the function; the row names what calls it."""

        def around(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
            return wrapped(*args, **{**kwargs, **(self.values(kwargs) if callable(self.values) else self.values)})

        wrap_function(module, self.function, around)


@dataclass(frozen=True)
class Literals:
    """Replace numbers in the function that the row names."""

    values: Mapping[int, int]

    def __call__(self, module: ModuleType, name: str) -> None:
        """Compile the function `name` again, with the other numbers."""
        tree = verify.parse(Path(str(module.__file__)))
        for node in ast.walk(verify.find(tree, name) or tree):
            if isinstance(node, ast.Constant) and type(node.value) is int:
                node.value = self.values.get(node.value, node.value)
        code: Any = compile(tree, str(module.__file__), "exec")
        function: Any = module
        for part in name.split("."):
            code = next(each for each in code.co_consts if isinstance(each, CodeType) and each.co_name == part)
            function = getattr(function, part)
        getattr(function, "__func__", function).__code__ = code


def _clip(given: Mapping[str, Any]) -> dict[str, Any]:
    # SDXL takes the eleventh layer of its first text encoder
    width = CLIP if given["hidden_size"] == _CLIP_L else LARGE_CLIP
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "projection_dim": width,
        "num_hidden_layers": 12,
        "num_attention_heads": 2,
    }


def _t5(given: Mapping[str, Any]) -> dict[str, Any]:
    width = T5 if given["vocab_size"] > VOCABULARY else CLIP  # byT5 has 384 tokens
    return {"d_model": width, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2}


def _flux(configs: Mapping[str, Any]) -> Mapping[str, Any]:
    for spec in configs.values():
        spec.params = _flux_params(spec.params, vec_in_dim=CLIP)
        spec.ae_params = dataclasses.replace(spec.ae_params, ch=32, ch_mult=[1, 2, 2, 2])
    return configs


def _flux_params(params: Any, **more: int) -> Any:
    sizes = {"context_in_dim": T5, "hidden_size": 64, "num_heads": 2, "axes_dim": [8, 12, 12], **more}
    return dataclasses.replace(params, depth=2, depth_single_blocks=4, **sizes)


def _qwen_vl(given: Mapping[str, Any]) -> dict[str, Any]:
    text = {"hidden_size": WIDE, "intermediate_size": 128, "vocab_size": VOCABULARY, **_TWO_LAYERS}
    text["num_hidden_layers"] = 4  # the third last layer's output is used
    vision = {"depth": 1, "fullatt_block_indexes": [0], "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    return {
        **text,
        "text_config": {**given["text_config"], **text, "layer_types": ["full_attention"] * 4},
        "vision_config": {**given["vision_config"], **vision, "out_hidden_size": WIDE},
    }


_SMALL_VAE = {"ch": 32, "ch_mult": (1, 2, 2, 2)}
_SDXL_BLOCK = {"num_transformer_layers": 1, "cross_attention_dim": CLIP + LARGE_CLIP}
_ANIMA = {"model_channels": WIDE, "num_heads": 2, "num_blocks": 4, "adaln_lora_dim": 16}
_ADAPTER = {"source_dim": QWEN3, "target_dim": QWEN3, "model_dim": QWEN3, "num_layers": 2, "num_heads": 2}
_QWEN3 = {"hidden_size": QWEN3, "intermediate_size": 128, "head_dim": 32, "layer_types": ["full_attention"] * 2}
_GEMMA = {"hidden_size": 96, "intermediate_size": 128, "head_dim": 32, "vocab_size": VOCABULARY}
# by module: a name that is changed in it or needs the change, its digest, and the change
_CHANGES: dict[str, tuple[tuple[str, str, Variable | Arguments | Literals], ...]] = {
    # SD 2.x, and the VAE of SDXL
    "library.model_util": (
        ("UNET_PARAMS_MODEL_CHANNELS", "5c8862505f19098f", Variable(32)),
        ("V2_UNET_PARAMS_ATTENTION_HEAD_DIM", "60cc2bb5a56b36e4", Variable([1, 2, 4, 4])),
        ("V2_UNET_PARAMS_CONTEXT_DIM", "3d8f500674ce0e19", Variable(LARGE_CLIP)),
        ("VAE_PARAMS_CH", "4dd6ea1f90b984ab", Variable(32)),
        ("VAE_PARAMS_CH_MULT", "97361ff228592a03", Variable([1, 2, 2, 2])),
        ("load_models_from_stable_diffusion_checkpoint", "95a6e808539937b6", Arguments("CLIPTextConfig", _clip)),
    ),
    "library.sdxl_original_unet": (
        ("MODEL_CHANNELS", "2b2f4ef0bbd4f71a", Variable(32)),
        ("TIME_EMBED_DIM", "4d405d507c455660", Variable(128)),
        ("ADM_IN_CHANNELS", "6cccecc51d8d8091", Variable(LARGE_CLIP + 6 * 256)),
        ("Transformer2DModel", "b1b51e2fa2b12f9f", Arguments("Transformer2DModel.__init__", _SDXL_BLOCK)),
    ),
    "library.sdxl_model_util": (
        ("load_models_from_sdxl_checkpoint", "11d7397c9d626f27", Arguments("CLIPTextConfig", _clip)),
    ),
    # FLUX and Chroma
    "library.flux_models": (("configs", "87ed7129e08ba542", Variable(_flux)),),
    "library.chroma_models": (
        ("chroma_params", "1925598116972804", Variable(lambda given: _flux_params(given, approximator_hidden_size=64))),
    ),
    "library.flux_utils": (
        ("load_clip_l", "dd162f143422faa2", Arguments("CLIPConfig", _clip)),
        ("load_t5xxl", "d031cf8edc11f3d2", Arguments("T5Config", _t5)),
    ),
    "library.sd3_utils": (("load_clip_l", "0a8dee1814a23608", Arguments("CLIPTextConfig", _clip)),),
    "library.sd3_models": (
        ("VAEEncoder", "9e31a7ff6420b5f5", Arguments("VAEEncoder.__init__", _SMALL_VAE)),
        ("VAEDecoder", "9f3d996579d6caea", Arguments("VAEDecoder.__init__", _SMALL_VAE)),
    ),
    "library.strategy_sd3": (("Sd3TextEncodingStrategy.concat_encodings", "dd886a69bca7108f", Literals({4096: T5})),),
    "library.anima_models": (
        ("Anima", "e2de75f8463d1140", Arguments("Anima.__init__", {**_ANIMA, "crossattn_emb_channels": QWEN3})),
        ("LLMAdapter", "29c13c0c42884ab1", Arguments("LLMAdapter.__init__", _ADAPTER)),
    ),
    "transformers.models.qwen3.configuration_qwen3": (
        ("Qwen3Config", "3aaca01c6b8ca3b5", Arguments("Qwen3Config.from_pretrained", {**_QWEN3, **_TWO_LAYERS})),
    ),
    "library.qwen_image_autoencoder_kl": (
        (
            "AutoencoderKLQwenImage",
            "fd7e857e44645424",
            Arguments("AutoencoderKLQwenImage.__init__", {"base_dim": 16, "num_res_blocks": 1}),
        ),
    ),
    "library.lumina_models": (
        ("LuminaParams.get_2b_config", "1a7797c2083ed12f", Literals({2304: 96, 26: 4, 24: 4, 8: 2, 32: 8})),
    ),
    "library.lumina_util": (("load_gemma2", "e60f57e47440c583", Arguments("Gemma2Config", {**_GEMMA, **_TWO_LAYERS})),),
    "library.hunyuan_image_models": (
        (
            "HYImageDiffusionTransformer.__init__",
            "6c51c15b350747d6",
            Literals({3584: WIDE, 28: 2, 20: 2, 40: 4, 1472: CLIP, 2048: 64}),
        ),
    ),
    "library.hunyuan_image_text_encoder": (
        ("load_byt5", "7f5011029bd20d60", Arguments("T5Config", _t5)),
        ("load_qwen2_5_vl", "77ef25aab47c3db2", Arguments("Qwen2_5_VLConfig", _qwen_vl)),
        ("get_byt5_prompt_embeds_from_tokens", "6ea9f988df2999a5", Literals({1472: CLIP})),
    ),
    "library.hunyuan_image_vae": (
        ("HunyuanVAE2D.__init__", "2c65f740e378c779", Literals({2: 1, 256: 32, 512: 32, 1024: 128, 128: 32})),
    ),
}


def install(module: ModuleType, _settings: NoSettings) -> None:
    """Make the models of one module small."""
    for name, _, change in _CHANGES[module.__name__]:
        change(module, name)


PATCH = RuntimePatch(
    name="tiny-models",
    reason="The sizes of most models are constants in upstream, and a smoke run needs smaller ones.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_sizes.py, and tests/families/test_families.py: every smoke run",
    removal_condition="upstream reads the sizes from the models' own files",
    targets=tuple(Target(module, name, digest) for module, rows in _CHANGES.items() for name, digest, _ in rows),
    install=install,
)
