"""The list of upstream's other scripts: what each does, and whether it can run here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_training.config.schema import reader, tools
from lora_training.config.schema.source import Tree

# Most of these scripts have no description, or another script's. A script without an entry is listed by its own.
_PURPOSES = {
    "anima_minimal_inference": "generate images with Anima",
    "anima_minimal_inference_control_net_lllite": "generate images with Anima and a ControlNet-LLLite",
    "anima_train": "fine-tune Anima in full",
    "anima_train_control_net_lllite": "train a ControlNet-LLLite for Anima",
    "fine_tune": "fine-tune SD 1.x or 2.x in full, from a metadata file",
    "flux_minimal_inference": "generate images with FLUX.1 or Chroma",
    "flux_train": "fine-tune FLUX.1 in full",
    "flux_train_control_net": "train a ControlNet for FLUX.1",
    "gen_img": "generate images with SD 1.x, 2.x or SDXL, with LoRAs and many options",
    "gen_img_diffusers": "generate images with SD 1.x or 2.x (older than gen_img)",
    "hunyuan_image_minimal_inference": "generate images with HunyuanImage-2.1",
    "inpainting_minimal_inference": "fill masked parts of an image with an SD 1.5 or SDXL inpainting model",
    "lumina_minimal_inference": "generate images with Lumina Image 2.0",
    "lumina_train": "fine-tune Lumina Image 2.0 in full",
    "sd3_minimal_inference": "generate images with SD 3 or 3.5",
    "sd3_train": "fine-tune SD 3 or 3.5 in full",
    "sdxl_gen_img": "generate images with SDXL (older than gen_img)",
    "sdxl_minimal_inference": "generate one image with SDXL",
    "sdxl_train": "fine-tune SDXL in full",
    "sdxl_train_control_net": "train a ControlNet for SDXL",
    "sdxl_train_control_net_lllite": "train a ControlNet-LLLite for SDXL",
    "sdxl_train_leco": "train a LECO LoRA for SDXL, from prompts without images",
    "sdxl_train_textual_inversion": "train an embedding for SDXL",
    "train_control_net": "train a ControlNet for SD 1.x or 2.x",
    "train_db": "fine-tune SD 1.x or 2.x in full, DreamBooth",
    "train_leco": "train a LECO LoRA for SD 1.x or 2.x, from prompts without images",
    "train_textual_inversion": "train an embedding for SD 1.x or 2.x",
    "clean_captions_and_tags": "clean the captions and tags of a metadata file",
    "make_captions": "caption images with BLIP (`lora data caption`)",
    "make_captions_by_git": "caption images with GIT",
    "merge_captions_to_metadata": "gather caption files into a metadata file",
    "merge_dd_tags_to_metadata": "gather tag files into a metadata file",
    "prepare_buckets_latents": "assign images to buckets and cache their latents, by a metadata file",
    "tag_images_by_wd14_tagger": "tag images with a WD14 tagger (`lora data tag`)",
    "check_lora_weights": "print the statistics of each matrix of a LoRA",
    "convert_anima_lora_to_comfy": "convert an Anima LoRA to ComfyUI's names, or back",
    "convert_flux_lora": "convert a FLUX.1 LoRA between sd-scripts, ai-toolkit and diffusers",
    "convert_hunyuan_image_lora_to_comfy": "convert a HunyuanImage-2.1 LoRA to ComfyUI's names, or back",
    "extract_lora_from_dylora": "extract a LoRA of each rank from a DyLoRA",
    "extract_lora_from_models": "extract the difference of two SD or SDXL models as a LoRA",
    "flux_extract_lora": "extract the difference of two FLUX.1 models as a LoRA",
    "flux_merge_lora": "merge LoRAs into a FLUX.1 model, or with each other",
    "lora_diffusers": "try a LoRA with a pipeline of diffusers",
    "lora_interrogator": "find the tokens of SD 1.x that a LoRA changes most",
    "merge_lora": "merge LoRAs into an SD 1.x or 2.x model, or with each other",
    "resize_lora": "reduce the rank of a LoRA",
    "sdxl_merge_lora": "merge LoRAs into an SDXL model, or with each other",
    "svd_merge_lora": "merge LoRAs of different ranks, by singular value decomposition",
    "cache_latents": "cache the latents of a data set on the disk (SD, SDXL, FLUX.1)",
    "cache_text_encoder_outputs": "cache the text encoder outputs of a data set on the disk (SDXL, FLUX.1)",
    "canny": "draw the edges of an image, for a ControlNet",
    "convert_diffusers20_original_sd": "convert an SD 1.x or 2.x model between diffusers' folder and one file",
    "convert_diffusers_to_flux": "convert FLUX.1 from diffusers' folder to one file",
    "detect_face_rotate": "crop anime faces, upright",
    "latent_upscaler": "upscale images in latent space",
    "merge_models": "merge whole models by weight",
    "merge_sd3_safetensors": "join the parts of SD 3.5 in one file",
    "resize_images_to_resolution": "make copies of images at smaller resolutions",
    "show_metadata": "print the metadata of a LoRA",
}
# Requirements of a script that its imports do not show, found by running it.
_UNFIT = {"gen_img_diffusers": "an older diffusers; gen_img does the same"}
# Packages that a runtime patch replaces.
_REPLACED = ("fairscale",)


@dataclass(frozen=True)
class Listed:
    """A script as `lora tool list` shows it: packages that are missing here, for the script or for some options."""

    name: str
    path: str
    purpose: str
    lacks: tuple[str, ...]
    options_lack: tuple[str, ...]


def listing(tree: Path) -> list[Listed]:
    """Return the scripts of `tree`."""
    source = Tree(tree)
    return [_listed(source, path) for path in tools.paths(tree).values()]


def listed(tree: Path, path: str) -> Listed:
    """Return the script of `tree` with this path without `.py`."""
    return _listed(Tree(tree), path)


def _listed(source: Tree, path: str) -> Listed:
    name = path.rpartition("/")[2]
    start, late = tools.lacking(source, path)
    lacks = [package for package in start if package not in _REPLACED]
    unfit = [_UNFIT[name]] if name in _UNFIT else []
    purpose = _PURPOSES.get(name) or reader.parse(source.root, {path: ()})[path]["description"] or ""
    return Listed(name, path, purpose.partition("\n")[0], (*lacks, *unfit), tuple(late))
