"""Pipelines of diffusers of the tiny models' shapes, and whether a LoRA fits into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_training.runtime.patches import tiny_models as tiny


def version() -> str:
    import diffusers

    return str(diffusers.__version__)


def _clip(width: int, layers: int = 12) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
    )


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL()  # the pipelines read its settings


def _unet(widths: tuple[int, ...], context: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(block_out_channels=widths, cross_attention_dim=context, **more)


def sd2() -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    # with convolutions for projections, as upstream trains SD 2.x; a linear layer would not take them
    unet = _unet((32, 64, 128, 128), tiny.LARGE_CLIP, attention_head_dim=(1, 2, 4, 4))
    parts = {"scheduler": DDIMScheduler(), **dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor"))}
    text = CLIPTextModel(_clip(tiny.LARGE_CLIP))
    return StableDiffusionPipeline(vae=_vae(), unet=unet, text_encoder=text, requires_safety_checker=False, **parts)


def sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    unet = _unet(
        (32, 64, 128),
        tiny.CLIP + tiny.LARGE_CLIP,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=tiny.LARGE_CLIP + 6 * 256,
    )
    parts = dict.fromkeys(("tokenizer", "tokenizer_2", "scheduler"))
    text = CLIPTextModel(_clip(tiny.CLIP))
    second = CLIPTextModelWithProjection(_clip(tiny.LARGE_CLIP))
    return StableDiffusionXLPipeline(vae=_vae(), unet=unet, text_encoder=text, text_encoder_2=second, **parts)


def flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from diffusers.loaders import lora_conversion_utils
    from transformers import CLIPTextModel

    # diffusers splits a fused module by the width of the real model
    tiny.Literals({3072: 64, 12288: 256})(lora_conversion_utils, "_convert_kohya_flux_lora_to_diffusers")
    transformer = FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=tiny.T5,
        pooled_projection_dim=tiny.CLIP,
        axes_dims_rope=(8, 12, 12),
    )
    parts = dict.fromkeys(("vae", "tokenizer", "tokenizer_2", "text_encoder_2", "scheduler"))
    return FluxPipeline(transformer=transformer, text_encoder=CLIPTextModel(_clip(tiny.CLIP)), **parts)


def assert_loads(pipeline: Any, lora: Path) -> None:
    """Assert that the pipeline has loaded every trained module of the file (others stay zero)."""
    from safetensors.torch import load_file

    pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    parts = [part for part in pipeline.components.values() if hasattr(part, "named_parameters")]
    loaded = [value for part in parts for name, value in part.named_parameters() if "lora_B" in name]
    trained = [name for name, value in load_file(lora).items() if name.endswith("lora_up.weight") and value.any()]
    assert len(trained) > len(loaded) / 2
    assert sum(bool(value.any()) for value in loaded) == sum(map(_modules, trained))


def _modules(name: str) -> int:
    """Return the number of modules in diffusers that a fused one of FLUX stands for."""
    return 3 if "_qkv" in name else 4 if "single_blocks" in name and "linear1" in name else 1
