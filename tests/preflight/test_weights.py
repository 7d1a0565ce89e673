from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from lora_training.preflight import weights
from tests.helpers import write
from tests.preflight.helpers import checkpoint, cut, job

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
SD1 = {"cond_stage_model.transformer.text_model.a.weight": (4, 4), "model.diffusion_model.b.weight": (8, 8)}
SD2 = {"cond_stage_model.model.transformer.resblocks.0.a.weight": (4, 4)}
SDXL = {"conditioner.embedders.1.model.transformer.a.weight": (4, 4)}
SD3 = {"model.diffusion_model.joint_blocks.0.a.weight": (4, 4)}
LORA = {"lora_unet_a.lora_down.weight": (4, 4)}
FLUX = {"double_blocks.0.img_attn.norm.key_norm.scale": (4,)}
CHROMA = FLUX | {"distilled_guidance_layer.in_proj.bias": (4,)}
LUMINA = {"cap_embedder.0.weight": (4,), "noise_refiner.0.attention.qkv.weight": (4, 4)}
HUNYUAN = {"byt5_in.fc1.bias": (4,), "double_blocks.0.img_attn_qkv.bias": (4,)}
ANIMA = {"net.llm_adapter.embed.weight": (4, 4), "net.blocks.0.a.weight": (4, 4)}
ODD = {"double_blocks.0.img_attn.qkv.weight": (4, 4)}


def _clip(width: int) -> dict[str, tuple[int, ...]]:
    names = ("text_model.encoder.layers.0.layer_norm1.bias", "text_model.embeddings.token_embedding.weight")
    return {names[0]: (width,), names[1]: (2, width)}


def _t5(tokens: int) -> dict[str, tuple[int, ...]]:
    return {"encoder.block.0.layer.0.SelfAttention.k.weight": (4, 4), "shared.weight": (tokens, 1)}


def _vae(channels: int) -> dict[str, tuple[int, ...]]:
    return {"encoder.down.0.block.0.conv1.bias": (4,), "decoder.conv_in.weight": (4, channels, 3, 3)}


# flag -> its file, and the kind that it is called by
PARTS = {
    "flux_train_network": {
        "clip_l": (_clip(768), "CLIP-L"),
        "t5xxl": (_t5(32128), "T5-XXL"),
        "ae": (_vae(16), "the autoencoder of FLUX"),
    },
    "sd3_train_network": {
        "clip_l": (_clip(768), "CLIP-L"),
        "clip_g": (_clip(1280), "CLIP-G"),
        "t5xxl": (_t5(32128), "T5-XXL"),
    },
    "lumina_train_network": {
        "gemma2": ({"model.layers.0.pre_feedforward_layernorm.weight": (4,)}, "Gemma 2"),
        "ae": (_vae(16), "the autoencoder of FLUX"),
    },
    "hunyuan_image_train_network": {
        "text_encoder": ({"visual.blocks.0.a": (4,), "model.layers.0.self_attn.b": (4,)}, "Qwen2.5-VL"),
        "byt5": (_t5(1510), "byT5"),
        "vae": (_vae(64), "the VAE of HunyuanImage"),
    },
    "anima_train_network": {
        "qwen3": ({"model.layers.0.self_attn.q_norm.weight": (4,)}, "Qwen3"),
        "vae": ({"decoder.norm_out.gamma": (4,)}, "the VAE of Qwen-Image"),
    },
}
SWAPS = [(script, flag, other) for script, parts in PARTS.items() for flag in parts for other in parts if flag != other]


def said(folder: Path, script: str = "train_network", **flags: object) -> list[str]:
    found = list(weights.problems(job(folder, script=script, **flags)))
    assert all(each.severity == "error" for each in found)
    return [f"{each.message}\n{each.hint}" for each in found]


@pytest.mark.parametrize("key", weights.KEYS)
def test_a_download_that_was_cut_off_is_named_with_its_key(tmp_path: Path, key: str) -> None:
    path = checkpoint(tmp_path / "a.safetensors", ODD)
    assert said(tmp_path, **{key: path}) == []
    (only,) = said(tmp_path, **{key: cut(path)})
    assert only.startswith(f"`{key}`: {path} is cut off")
    assert "fetch it again" in only


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
@pytest.mark.parametrize(
    ("content", "what"), [(LFS, "Git LFS"), ("\n<!DOCTYPE html><html>", "a web page"), ("", "is empty")]
)
def test_what_is_no_model_at_all_is_called_by_its_name(tmp_path: Path, name: str, content: str, what: str) -> None:
    write(tmp_path, {name: content})
    (only,) = said(tmp_path, vae=tmp_path / name)
    assert what in only


def test_every_damage_to_a_header_is_seen(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors", SD1)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    harmed = {
        "in its header": whole[: length // 2],
        "is no safetensors file": b"\x80\x02}q\x00" + whole,
        "damaged header": whole[:8] + b"{" * length + whole[8 + length :],
        "bytes too many": whole + b"x",
        "another size": whole.replace(b"[4, 4]", b"[4, 5]"),
        "is a PyTorch checkpoint": b"PK\x03\x04" + whole,
        "all zeros": bytes(1000),
    }
    for what, content in harmed.items():
        path.write_bytes(content)
        assert what in (weights.damage(path) or ""), what


def headed(path: Path, header: str, data: int = 8) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(data))
    return path


GOOD = '"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
HALF = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, NaN]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}',
        '{"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 16]}}',
        f'{{"a": {{"dtype": "F32", "shape": {[9] * 500_000}, "data_offsets": [0, 8]}}}}',
        f'{{{GOOD}, "b": {{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}}}',
        f'{{{GOOD}, "b": {{"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}}}',
        f"{{{HALF}, {HALF.replace('0, 4', '4, 8')}}}",
        f'{{"__metadata__": 5, {GOOD}}}',
        f'{{"__metadata__": {{"a": 5}}, {GOOD}}}',
        '{"a": 5}',
        '{"a": {"b": 5}}',
        '{"a": ' + "[" * 200_000,
        f"{{{GOOD}, Infinity}}",
    ],
)
def test_a_header_that_no_library_would_take_is_damaged(tmp_path: Path, header: str) -> None:
    path = headed(tmp_path / "a.safetensors", header)
    assert "damaged header" in (weights.damage(path) or "")


def test_a_good_header_is_not_damaged(tmp_path: Path) -> None:
    for metadata in ("", '"__metadata__": null, ', '"__metadata__": {"a": "b"}, '):
        assert weights.damage(headed(tmp_path / "a.safetensors", f"{{{metadata}{GOOD}}}")) is None


def test_a_cut_off_checkpoint_is_seen_and_an_old_one_is_let_be(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as file:
        file.writestr("archive/data.pkl", b"x" * 1000)
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02}q\x00.")
    for name in ("a.ckpt", "old.ckpt"):
        assert said(tmp_path, vae=tmp_path / name) == []
    (only,) = said(tmp_path, vae=cut(tmp_path / "a.ckpt"))
    assert "cut off or damaged" in only


@pytest.mark.parametrize(
    ("script", "tensors", "flags", "mend"),
    [
        ("train_network", SD1, {}, None),
        ("train_network", SD2, {"v2": True}, None),
        ("train_network", ODD, {}, None),
        ("sdxl_train_network", SDXL, {}, None),
        ("sd3_train_network", SD3, {}, None),
        ("flux_train_network", ODD, {}, None),
        ("flux_train_network", FLUX, {}, None),
        ("flux_train_network", CHROMA, {"model_type": "chroma"}, None),
        ("flux_train_network", CHROMA, {}, 'model_type = "chroma"'),
        ("flux_train_network", FLUX, {"model_type": "chroma"}, 'model_type = "flux"'),
        ("lumina_train_network", LUMINA, {}, None),
        ("hunyuan_image_train_network", HUNYUAN, {}, None),
        ("anima_train_network", ANIMA, {}, None),
        ("sdxl_train_network", {f"model.diffusion_model.{name}": shape for name, shape in FLUX.items()}, {}, '"flux_'),
        ("flux_train_network", LUMINA, {}, 'script = "lumina_train_network"'),
        ("lumina_train_network", ANIMA, {}, 'script = "anima_train_network"'),
        ("flux_train_network", HUNYUAN, {}, 'script = "hunyuan_image_train_network"'),
        ("flux_train_network", _t5(32128), {}, "give it as t5xxl"),
        ("train_network", SDXL, {}, 'script = "sdxl_train_network"'),
        ("sdxl_train_network", SD1, {}, 'script = "train_network"'),
        ("flux_train_network", SDXL, {}, 'script = "sdxl_train_network"'),
        ("train_network", SD2, {}, "v2 = true"),
        ("train_network", SD1, {"v2": True}, "v2 = false"),
        ("sdxl_train_network", LORA, {}, "network_weights"),
    ],
)
def test_a_model_of_another_family_is_said_before_it_loads(
    tmp_path: Path, script: str, tensors: dict[str, tuple[int, ...]], flags: dict[str, object], mend: str | None
) -> None:
    path = checkpoint(tmp_path / "a.safetensors", tensors)
    found = said(tmp_path, script, pretrained_model_name_or_path=path, **flags)
    assert [mend in each for each in found if mend] == ([True] if mend else [])
    assert said(tmp_path, script, network_weights=path, **flags) == []


@pytest.mark.parametrize(("script", "flag", "other"), SWAPS)
def test_a_text_encoder_or_autoencoder_in_anothers_place_is_called_what_it_is(
    tmp_path: Path, script: str, flag: str, other: str
) -> None:
    right, wanted = PARTS[script][flag]
    assert said(tmp_path, script, **{flag: checkpoint(tmp_path / "right.safetensors", right)}) == []
    tensors, kind = PARTS[script][other]
    (only,) = said(tmp_path, script, **{flag: checkpoint(tmp_path / "other.safetensors", tensors)})
    assert f"is {kind}, not {wanted}" in only
    assert f"give it as {other}" in only


def test_the_autoencoder_of_another_checkpoint_is_taken(tmp_path: Path) -> None:
    assert said(tmp_path, "sdxl_train_network", vae=checkpoint(tmp_path / "model.safetensors", SDXL)) == []


@pytest.mark.parametrize("script", PARTS)
def test_a_base_model_given_as_one_of_its_parts_is_called_what_it_is(tmp_path: Path, script: str) -> None:
    flag = next(iter(PARTS[script]))
    (only,) = said(tmp_path, script, **{flag: checkpoint(tmp_path / "model.safetensors", SDXL)})
    assert "is SDXL, not " in only


def diffusers(folder: Path, name: str = "StableDiffusionPipeline") -> Path:
    index = {"_class_name": name, "unet": ["diffusers", "X"], "vae": ["diffusers", "Y"], "safety_checker": [None, None]}
    write(folder, {"model_index.json": json.dumps(index)})
    for part in ("unet", "vae"):
        checkpoint(folder / part / "diffusion_pytorch_model.safetensors", ODD)
    return folder


def test_the_parts_of_a_diffusers_folder_must_be_there_and_whole(tmp_path: Path) -> None:
    model = diffusers(tmp_path / "model")
    assert said(tmp_path, pretrained_model_name_or_path=model) == []
    (only,) = said(tmp_path, "sdxl_train_network", pretrained_model_name_or_path=model)
    assert 'script = "train_network"' in only
    unet = model / "unet" / "diffusion_pytorch_model.safetensors"
    checkpoint(unet.with_name("diffusion_pytorch_model.fp16.safetensors"), ODD)
    cut(unet)
    assert said(tmp_path, pretrained_model_name_or_path=model) == []
    unet.with_name("diffusion_pytorch_model.fp16.safetensors").unlink()
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    cut_off, missing = said(tmp_path, pretrained_model_name_or_path=model)
    assert f"{unet} is cut off" in cut_off
    assert f"{model / 'vae'} has no weights" in missing
    (model / "model_index.json").write_text("{")
    assert "damaged" in said(tmp_path, pretrained_model_name_or_path=model)[0]
    (model / "model_index.json").unlink()
    assert "no model_index.json" in said(tmp_path, pretrained_model_name_or_path=model)[0]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    checkpoint(folder / "model-00001-of-00002.safetensors", ODD)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    write(folder, {"model.safetensors.index.json": json.dumps(index)})
    (only,) = said(tmp_path, "lumina_train_network", gemma2=folder)
    assert "lacks model-00002-of-00002.safetensors" in only


@pytest.mark.parametrize("content", ["[]", '{"weight_map": []}', '{"weight_map": {"a": ["b"]}}', "{}"])
def test_an_index_of_another_form_is_one_problem(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "model"
    write(folder, {"model_index.json": '{"_class_name": "StableDiffusionPipeline", "vae": [], "unet": ["a", "b"]}'})
    checkpoint(folder / "unet" / "model.safetensors", {"a": (1,)})
    write(folder / "unet", {"model.safetensors.index.json": content})
    (problem,) = said(tmp_path, pretrained_model_name_or_path=folder)
    assert f"{folder / 'unet'} lacks" in problem


def test_a_link_that_upstream_follows_to_something_else_is_said(tmp_path: Path) -> None:
    """As in the hub's own cache: a relative link to a file without an ending."""
    blob = checkpoint(tmp_path / "blobs" / "0123", SD1)
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(os.path.relpath(blob, link.parent))
    (only,) = said(tmp_path, pretrained_model_name_or_path=link)
    assert "takes for a pickle" in only
    checkpoint(blob, SDXL)
    (only,) = said(tmp_path, "sdxl_train_network", pretrained_model_name_or_path=link)
    assert "relative link" in only
    assert said(tmp_path, "sdxl_train_network", network_weights=link) == []
