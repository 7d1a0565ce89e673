"""Upstream's scripts besides the network training scripts: what each does, its arguments, the packages it lacks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_training import nearest
from lora_training.config.schema import reader, scripts
from lora_training.config.schema.source import Tree, is_module
from lora_training.errors import UpstreamError, UsageError

_FOLDERS = ("", "finetune", "networks", "tools")
_PARSES = re.compile(r"\.parse_(?:known_)?args\(")

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
class Script:
    """A script: its path in the tree without `.py`, and packages that are missing here, for it or for some options."""

    name: str
    path: str
    purpose: str
    lacks: tuple[str, ...]
    options_lack: tuple[str, ...]


@dataclass(frozen=True)
class CommandLine:
    """A command line as a script's own parser reads it: `--a=b` as two words.

    `script` is its path in the tree without `.py`. `values` has the words that are values, with their places, by
    argument.
    """

    script: str
    words: tuple[str, ...]
    values: Mapping[str, Sequence[tuple[int, str]]]
    is_recursive: bool

    @property
    def name(self) -> str:
        """The script's file name without `.py`."""
        return self.script.rpartition("/")[2]


def paths(tree: Path) -> dict[str, str]:
    """Return the path of each script that parses arguments, by its name, without the network training scripts."""
    left_out = set(scripts(tree))
    found = (path for folder in _FOLDERS for path in sorted((tree / folder).glob("*.py")) if path.stem not in left_out)
    return {
        path.stem: path.relative_to(tree).with_suffix("").as_posix()
        for path in found
        if _PARSES.search(path.read_text(encoding="utf-8", errors="replace"))
    }


def path_of(tree: Path, name: str) -> str:
    """Return the path of the script `name`, with or without folder and `.py`. Raises UsageError if there is none."""
    stem = name.removesuffix(".py").rpartition("/")[2]
    known = paths(tree)
    if not known:
        raise UpstreamError(f"no script in {tree}", hint="run `lora upstream sync`")
    if stem in known:
        return known[stem]
    if stem in scripts(tree):
        raise UsageError(f"{stem} trains a LoRA", hint="`lora train CONFIG` runs it, from one TOML file")
    near = nearest.hint(stem, (*known, "list"))
    raise UsageError(f"upstream has no tool `{name}`", hint=near or "`lora tool list` shows them")


def parse(tree: Path, path: str, words: Sequence[str]) -> CommandLine:
    """Have a script's own parser read a command line. Raises UsageError as the script itself would."""
    found = reader.parse(tree, {path: words})[path]
    name = path.rpartition("/")[2]
    hint = f"`lora tool {name} --help` shows its arguments"
    if "refusal" in found:
        raise UsageError(f"{name}: {found['refusal']}", hint=hint)
    if not words:  # which some scripts parse, but none can run with
        raise UsageError(f"{name}: no arguments were given", hint=hint)
    for unknown in found["unknown"]:
        raise UsageError(
            f"{name}: unrecognized argument {unknown}", hint=nearest.hint(unknown, found["options"]) or hint
        )
    return CommandLine(path, tuple(found["words"]), found["values"], found["is_recursive"])


# -- the list


def listing(tree: Path) -> list[Script]:
    """Return the scripts of `tree`."""
    source = Tree(tree)
    return [script(source, path) for path in paths(tree).values()]


def script(source: Tree, path: str) -> Script:
    """Return the script of a path without `.py`."""
    name = path.rpartition("/")[2]
    start, late = _lacking(source, path)
    lacks = [package for package in start if package not in _REPLACED]
    unfit = [_UNFIT[name]] if name in _UNFIT else []
    purpose = _PURPOSES.get(name) or reader.parse(source.root, {path: ()})[path]["description"] or ""
    return Script(name, path, purpose.partition("\n")[0], (*lacks, *unfit), tuple(late))


def _lacking(source: Tree, path: str) -> tuple[list[str], list[str]]:
    """Return the packages that are not installed: those that a script imports at its start, and inside of functions.

    Imports in `try` do not count. Those of the tree's modules do.
    """
    modules, start = [path.replace("/", ".")], set()
    folder = modules[0].rpartition(".")[0]
    for module in filter(None, map(source.module, modules)):  # which grows
        for name in _imported(module.body):
            inner = next((each for each in (f"{folder}.{name}".lstrip("."), name) if source.module(each)), None)
            if inner is None:
                start.add(name.partition(".")[0])
            elif inner not in modules:
                modules.append(inner)
    script = source.module(modules[0])
    nodes = (node for statement in (script.body if script else ()) for node in ast.walk(statement))
    inside = (inner for node in nodes if isinstance(node, ast.FunctionDef) for inner in ast.walk(node))
    late = {name.partition(".")[0] for name in _imported(inside)} - start
    folders = (source.root, source.root / folder)

    def missing(names: set[str]) -> list[str]:
        return sorted(name for name in names if not any(is_module(name, each) for each in folders))

    return missing(start), missing(late)


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
