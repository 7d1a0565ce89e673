"""Tiny models of the other families, with random weights, in the files that upstream loads.

Upstream's own code builds each model, with the sizes that the runtime patch `tiny-models` gives it; nothing of it is
retyped here. Their tensors are those that upstream's loader asks for.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from typing import TYPE_CHECKING, Any
from unittest import mock

from lora_training import clip, workspace
from lora_training.runtime import registry
from lora_training.runtime.model import Start
from lora_training.smoke import images

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_SEED = 20
_CLIP_L, _CLIP_G = "openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"
_T5, _SD2 = "google_t5-v1_1-xxl", "stabilityai_stable-diffusion-2"


_PATCHES = {"lazy-bitsandbytes": {}, "tiny-models": {}, "tiny-unet": {"block_out_channels": [32, 64, 128, 128]}}
# the smallest that every family takes
_PIXELS = 128


def write(folder: Path, family: str, *, tiny: bool = True, pixels: int = _PIXELS) -> None:
    """Write the images and the model of a family, by its name with hyphens, such as `hunyuan-image`.

    With `tiny=False` the model has its real size. Weights are made on torch's default device, in its default dtype.
    """
    tree = workspace.find().upstream("sd-scripts").path
    sys.path.insert(0, str(tree))
    if tiny:
        registry.install(_PATCHES, tree, Start((), {}))
    images.write(folder / "images", pixels)
    getattr(_Maker(folder, tree), family.replace("-", "_"))()


class _Maker:
    """Writes the parts of one family's model to a folder. `tree` is upstream's."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.folder, self.tree = folder, tree

    def sd2(self) -> None:
        """One checkpoint, and the tokenizer."""
        from diffusers import AutoencoderKL
        from library import model_util, original_unet
        from transformers import CLIPTextModel

        unet = original_unet.UNet2DConditionModel(**model_util.create_unet_diffusers_config(True, True))
        text = CLIPTextModel(model_util.CLIPTextConfig(hidden_size=1024))
        vae = AutoencoderKL(**model_util.create_vae_diffusers_config())
        parts = map(_filled, (text, unet))
        file, metadata = str(self.folder / "sd2.safetensors"), {"format": "pt"}
        model_util.save_stable_diffusion_checkpoint(True, file, *parts, None, 0, 0, metadata, None, _filled(vae))
        self._clip(_SD2)

    def sdxl(self) -> None:
        """One checkpoint, and both tokenizers."""
        import torch
        from diffusers import AutoencoderKL
        from library import model_util, sdxl_model_util, sdxl_original_unet
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        first = CLIPTextModel(sdxl_model_util.CLIPTextConfig(hidden_size=768))
        second = CLIPTextModelWithProjection(sdxl_model_util.CLIPTextConfig(hidden_size=1280))
        parts = map(_filled, (first, second, sdxl_original_unet.SdxlUNet2DConditionModel()))
        vae = _filled(AutoencoderKL(**model_util.create_vae_diffusers_config()))
        file, metadata = str(self.folder / "sdxl.safetensors"), {"format": "pt"}
        sdxl_model_util.save_stable_diffusion_checkpoint(file, *parts, 0, 0, None, vae, torch.tensor(4.6), metadata)
        self._clip(_CLIP_L, _CLIP_G)

    def flux(self) -> None:
        """FLUX.1 dev and schnell, Chroma, and what all three need."""
        from library import flux_models, flux_utils

        for name, file in (("dev", "flux"), ("schnell", "flux-schnell")):
            self._save(file, _weights(flux_models.Flux(flux_models.configs[name].params)))
        load = flux_utils.load_flow_model
        self._save("chroma", self._asked(lambda file: load(file, None, "cpu", model_type="chroma")))
        self._save("clip_l", self._asked(lambda file: flux_utils.load_clip_l(file, None, "cpu")))
        self._t5xxl()
        self._ae()
        self._clip(_CLIP_L)

    def sd3(self) -> None:
        """SD 3.5 medium with its VAE, and the three text encoders."""
        import torch
        from library import sd3_models, sd3_utils

        from lora_training.runtime.patches import tiny_models as tiny

        params = sd3_models.SD3Params(
            patch_size=2,
            depth=4,
            num_patches=1024,
            pos_embed_max_size=32,
            adm_in_channels=tiny.CLIP + tiny.LARGE_CLIP,
            qk_norm="rms",
            x_block_self_attn_layers=[0, 1],
            context_embedder_in_features=tiny.T5,
            context_embedder_out_features=256,
            model_type="5-medium",
        )
        mmdit, vae = sd3_models.create_sd3_mmdit(params), sd3_models.SDVAE()
        prefixed = {"model.diffusion_model.": _weights(mmdit), "first_stage_model.": _weights(vae)}
        self._save("sd3", {prefix + name: value for prefix, part in prefixed.items() for name, value in part.items()})
        self._save("clip_l", self._asked(lambda file: sd3_utils.load_clip_l(file, torch.float32, "cpu")))
        self._save("clip_g", self._asked(lambda file: sd3_utils.load_clip_g(file, torch.float32, "cpu")))
        self._t5xxl()
        self._clip(_CLIP_L, _CLIP_G)

    def anima(self) -> None:
        """The transformer, Qwen3 and the VAE; upstream has the tokenizers itself."""
        import torch
        from library import anima_utils, qwen_image_autoencoder_kl

        made = self._asked(lambda file: anima_utils.load_anima_model("cpu", file, "torch", False, "cpu", torch.float32))
        computed = ("seq", "dim_spatial_range", "dim_temporal_range", "inv_freq")
        self._save("anima", {f"net.{name}": value for name, value in made.items() if not name.endswith(computed)})
        made = self._asked(lambda file: anima_utils.load_qwen3_text_encoder(file, torch.float32))
        self._save("qwen3", {f"model.{name}": value.bfloat16() for name, value in made.items()})
        self._save("vae", self._asked(qwen_image_autoencoder_kl.load_vae))

    def lumina(self) -> None:
        """The transformer, Gemma 2 with a tokenizer, and the autoencoder of FLUX."""
        import torch
        from library import lumina_util
        from transformers import GemmaTokenizerFast

        self._save("lumina", self._asked(lambda file: lumina_util.load_lumina_model(file, None, torch.device("cpu"))))
        self._save("gemma2", self._asked(lambda file: lumina_util.load_gemma2(file, None, "cpu")))
        self._ae()
        marks = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
        self._bpe("google_gemma-2-2b", GemmaTokenizerFast, marks)

    def hunyuan_image(self) -> None:
        """The transformer, Qwen2.5-VL and byT5 with their tokenizers, and the VAE."""
        import torch
        from library import hunyuan_image_models, hunyuan_image_text_encoder, hunyuan_image_vae
        from transformers import ByT5Tokenizer, Qwen2TokenizerFast

        load = hunyuan_image_models.load_hunyuan_image_model
        self._save("hunyuan-image", self._asked(lambda file: load("cpu", file, "torch", False, "cpu", torch.float32)))
        made = self._asked(lambda file: hunyuan_image_vae.load_vae(file, "cpu"))
        self._save("vae", {name: value.half() / 2 for name, value in made.items()})
        made = self._asked(lambda file: hunyuan_image_text_encoder.load_qwen2_5_vl(file, None, "cpu"))
        parts = {name.replace("model.language_model.", "model."): value.bfloat16() for name, value in made.items()}
        self._save("qwen2.5-vl", {name.replace("model.visual.", "visual."): value for name, value in parts.items()})
        byt5 = self.folder / "tokenizer" / "google_byt5-small"
        ByT5Tokenizer().save_pretrained(byt5)
        with mock.patch.object(hunyuan_image_text_encoder, "BYT5_TOKENIZER_PATH", str(byt5)):
            made = self._asked(lambda file: hunyuan_image_text_encoder.load_byt5(file, None, "cpu"))
        shared = made.pop("embed_tokens.weight")
        self._save("byt5", {"shared.weight": shared, **{f"encoder.{name}": value for name, value in made.items()}})
        marks = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
        self._bpe(
            "Qwen_Qwen2.5-VL-7B-Instruct", Qwen2TokenizerFast, {**marks, "additional_special_tokens": ["<|im_start|>"]}
        )

    def _t5xxl(self) -> None:
        from library import flux_utils

        made = self._asked(lambda file: flux_utils.load_t5xxl(file, None, "cpu"))
        del made["encoder.embed_tokens.weight"]  # the same as shared.weight
        self._save("t5xxl", {name: value.half() for name, value in made.items()})
        shutil.copytree(self.tree / "configs" / "t5_old", self.folder / "tokenizer" / _T5)

    def _ae(self) -> None:
        from library import flux_utils

        self._save("ae", self._asked(lambda file: flux_utils.load_ae(file, None, "cpu")))

    def _clip(self, *names: str) -> None:
        for name in names:
            clip.write(self.folder / "tokenizer" / name)

    def _bpe(self, name: str, kind: Any, marks: Mapping[str, Any]) -> None:
        """Write a tokenizer of that class with a small vocabulary: bytes, and the merges of one sentence."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        from lora_training.runtime.patches.tiny_models import VOCABULARY

        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        special = list(dict.fromkeys(mark for mark in marks.values() if isinstance(mark, str)))
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY // 2, special_tokens=special, initial_alphabet=alphabet)
        made.train_from_iterator([__doc__ or ""], trainer)
        kind(tokenizer_object=made, **marks).save_pretrained(self.folder / "tokenizer" / name)

    def _asked(self, load: Callable[[str], Any]) -> dict[str, Any]:
        """Return weights for the model that `load` builds: it is stopped when it would take them from the file."""
        import torch
        from safetensors.torch import save_file

        file = self.folder / "empty.safetensors"
        save_file({"shared.weight": torch.zeros(1)}, file)  # byT5's loader renames this one
        built: list[Any] = []

        def stop(model: Any, *_: Any, **__: Any) -> None:
            built.append(model)
            raise _Stop

        with mock.patch("torch.nn.Module.load_state_dict", stop), contextlib.suppress(_Stop):
            load(str(file))
        file.unlink()
        return _weights(built[0])

    def _save(self, name: str, tensors: Mapping[str, Any]) -> None:
        from safetensors.torch import save_file

        save_file(dict(tensors), self.folder / f"{name}.safetensors", {"format": "pt"})


class _Stop(Exception):
    pass


def _filled(model: Any) -> Any:
    model.load_state_dict(_weights(model))
    return model


def _weights(model: Any) -> dict[str, Any]:
    """Return random weights for `model`, which may be on the meta device, the same each time."""
    import torch

    source = torch.Generator(torch.get_default_device()).manual_seed(_SEED)
    return {name: _random(name, value.shape, source) for name, value in model.state_dict().items()}


def _random(name: str, shape: Any, source: Any) -> Any:
    import torch

    if len(shape) > 1:
        return torch.randn(shape, generator=source) / max(1, shape[1:].numel()) ** 0.5
    return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
