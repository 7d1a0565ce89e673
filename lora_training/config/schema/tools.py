"""Upstream's scripts besides the network training scripts: what each does, its arguments, the packages it lacks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_training import families, nearest
from lora_training.config.schema import reader, scripts
from lora_training.config.schema.source import Tree, is_module
from lora_training.errors import UpstreamError, UsageError

_FOLDERS = ("", "finetune", "networks", "tools")
_PARSES = re.compile(r"\.parse_(?:known_)?args\(")

# Most of these scripts have no description, or another script's. A script without an entry is listed by its own.
# `{}` is a family: in the script's name, and the models of it in the sentence; one script alone knows Chroma.
_PURPOSES = {
    "{}train": "fine-tune {} in full",
    "{}train_control_net": "train a ControlNet for {}",
    "{}train_control_net_lllite": "train a ControlNet-LLLite for {}",
    "{}train_leco": "train a LECO LoRA for {}, from prompts without images",
    "{}train_textual_inversion": "train an embedding for {}",
    "flux_minimal_inference": "generate images with FLUX or Chroma",
    "{}minimal_inference": "generate images with {}",
    "{}merge_lora": "merge LoRAs into a model of {}, or with each other",
    "convert_{}lora_to_comfy": "convert a LoRA of {} to ComfyUI's names, or back",
    "fine_tune": "fine-tune SD 1.x or 2.x in full, from a metadata file",
    "gen_img": "generate images with SD 1.x, 2.x or SDXL, with LoRAs and many options",
    "gen_img_diffusers": "generate images with SD 1.x or 2.x (older than gen_img)",
    "sdxl_gen_img": "generate images with SDXL (older than gen_img)",
    "train_db": "fine-tune SD 1.x or 2.x in full, DreamBooth",
    "clean_captions_and_tags": "clean the captions and tags of a metadata file",
    "make_captions": "caption images with BLIP (`lora data caption`)",
    "make_captions_by_git": "caption images with GIT",
    "merge_captions_to_metadata": "gather caption files into a metadata file",
    "merge_dd_tags_to_metadata": "gather tag files into a metadata file",
    "prepare_buckets_latents": "assign images to buckets and cache their latents, by a metadata file",
    "tag_images_by_wd14_tagger": "tag images with a WD14 tagger (`lora data tag`)",
    "check_lora_weights": "print the statistics of each matrix of a LoRA",
    "convert_flux_lora": "convert a FLUX.1 LoRA between sd-scripts, ai-toolkit and diffusers",
    "extract_lora_from_dylora": "extract a LoRA of each rank from a DyLoRA",
    "extract_lora_from_models": "extract the difference of two SD or SDXL models as a LoRA",
    "flux_extract_lora": "extract the difference of two FLUX.1 models as a LoRA",
    "lora_diffusers": "try a LoRA with a pipeline of diffusers",
    "lora_interrogator": "find the tokens of SD 1.x that a LoRA changes most",
    "resize_lora": "reduce the rank of a LoRA",
    "svd_merge_lora": "merge LoRAs of different ranks, by singular value decomposition",
    "cache_latents": "cache the latents of a data set on the disk (SD, SDXL, FLUX.1)",
    "cache_text_encoder_outputs": "cache the text encoder outputs of a data set on the disk (SDXL, FLUX.1)",
    "canny": "draw the edges of an image, for a ControlNet",
    "convert_diffusers20_original_sd": "convert an SD 1.x or 2.x model between diffusers' folder and one file",
    "convert_diffusers_to_flux": "convert FLUX.1 from diffusers' folder to one file",
    "detect_face_rotate": "crop anime faces, upright",
    "latent_upscaler": "upscale images in latent space",
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
        raise _no_script(tree)
    if stem in known:
        return known[stem]
    if stem in scripts(tree):
        raise UsageError(f"{stem} trains a LoRA", hint="`lora train CONFIG` runs it, from one TOML file")
    near = nearest.hint(stem, (*known, "list"))
    raise UsageError(f"upstream has no tool `{name}`", hint=near or "`lora tool list` shows them")


def parse(tree: Path, path: str, words: Sequence[str]) -> dict[str, Any]:
    """Have a script's own parser read a command line. Raises UsageError as the script itself would.

    The result has the `words`, with `--a=b` as two, the `values` among them with their places, by argument, and
    whether the script `is_recursive`.
    """
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
    return found


# -- the list


def listing(tree: Path) -> list[Script]:
    """Return the scripts of `tree`. Raises UpstreamError if there are none."""
    source = Tree(tree)
    if not (found := [script(source, path) for path in paths(tree).values()]):
        raise _no_script(tree)
    return found


def _no_script(tree: Path) -> UpstreamError:
    return UpstreamError(f"no script in {tree}", hint="run `lora upstream sync`")


def script(source: Tree, path: str) -> Script:
    """Return the script of a path without `.py`."""
    name = path.rpartition("/")[2]
    start, late = _lacking(source, path)
    lacks = [package for package in start if package not in _REPLACED]
    unfit = [_UNFIT[name]] if name in _UNFIT else []
    purposes = (
        purpose.format(" or ".join(kind for kind in family.checkpoints if kind != "Chroma"))
        for family in families.FAMILIES
        for pattern, purpose in _PURPOSES.items()
        if pattern.format(family.name and f"{family.name}_") == name
    )
    purpose = next(purposes, None) or reader.parse(source.root, {path: ()})[path]["description"] or ""
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
