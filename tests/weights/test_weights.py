"""`lora weights show`: one file described, two compared, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import lora

np = pytest.importorskip("numpy")
save_file = pytest.importorskip("safetensors.numpy").save_file
NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
MADE = {"ss_network_module": "networks.lora", "ss_steps": "20", "modelspec.architecture": "stable-diffusion-v1/lora"}


def made(path: Path, metadata: dict[str, str] | None = None, **changed: object) -> Path:
    tensors = {
        f"{NAME}.lora_down.weight": np.ones((8, 32), "f4"),
        f"{NAME}.lora_up.weight": np.ones((32, 8), "f2"),
        f"{NAME}.alpha": np.array(4, "f4"),
        f"{CONV}.lora_down.weight": np.ones((2, 32, 3, 3), "f4"),
        f"{CONV}.alpha": np.array(1, "i8"),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": np.ones((8, 4), "f4"),
    }
    tensors |= {f"{NAME}.{name.replace('__', '.')}": value for name, value in changed.items()}
    save_file({name: value for name, value in tensors.items() if value is not None}, str(path), metadata)
    return path


def shown(*files: Path) -> dict[str, list[dict[str, object]]]:
    ran = lora("weights", "show", *files, "--json", cwd=files[0].parent)
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_a_lora_is_described_by_its_header(tmp_path):
    (found,) = shown(made(tmp_path / "a.safetensors", MADE))["files"]
    assert found["kind"] == "a LoRA for stable-diffusion-v1"
    assert (found["tensors"], found["parts"]) == (6, {"te": 1, "unet": 2})
    assert found["ranks"] == {"2": 1, "8": 2}
    assert found["alphas"] == {"1.0": 1, "4.0": 1}
    assert found["dtypes"] == {"F16": 1, "I64": 1, "F32": 4}
    assert found["made"]["steps"] == {"ss_steps": "20"}
    ran = lora("weights", "show", tmp_path / "a.safetensors", cwd=tmp_path)
    assert "ranks       2 (1), 8 (2)" in ran.out
    assert "steps       steps 20" in ran.out


def test_without_metadata_the_names_tell_the_family(tmp_path):
    (found,) = shown(made(tmp_path / "a.safetensors"))["files"]
    assert (found["kind"], found["made"]) == ("a LoRA for SD 1.x or 2.x", {})
    save_file({}, str(tmp_path / "empty.safetensors"))
    assert shown(tmp_path / "empty.safetensors")["files"][0]["kind"] == "no tensors"


def test_two_files_are_compared_tensor_by_tensor(tmp_path):
    one = made(tmp_path / "one.safetensors", MADE)
    changed = {"lora_down__weight": np.zeros((8, 32), "f4"), "lora_up__weight": np.ones((32, 8), "f4"), "alpha": None}
    other = made(tmp_path / "other.safetensors", MADE | {"ss_steps": "40"}, extra=np.ones(1, "f4"), **changed)
    assert shown(one, other)["difference"] == {
        "only_first": [f"{NAME}.alpha"],
        "only_second": [f"{NAME}.extra"],
        "shapes": {f"{NAME}.lora_up.weight": ["F16 32x8", "F32 32x8"]},
        "values": [f"{NAME}.lora_down.weight"],
        "same": 3,
        "metadata": {"ss_steps": ["20", "40"]},
    }
    assert "ss_steps: 20 | 40" in lora("weights", "show", one, other, cwd=tmp_path).out
    assert shown(one, one)["difference"]["same"] == 6


def test_of_two_long_values_the_part_is_shown_where_they_differ(tmp_path):
    one, other = (made(tmp_path / f"{end}.safetensors", {"ss_tags": "x" * 500 + end}) for end in ("one", "two"))
    (line,) = [line for line in lora("weights", "show", one, other, cwd=tmp_path).out.splitlines() if "ss_tags" in line]
    assert [word[-4:] for word in line.split(" | ")] == ["xone", "xtwo"]
    assert len(line) < 200


def test_a_file_that_is_cut_off_or_is_none_is_an_error(tmp_path):
    whole = made(tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-5])
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html><html></html>")
    (tmp_path / "picture.safetensors").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    wrong = {"cut": "is cut off: 5 of", "page": "is a web page", "pagee": "did you mean `page.safetensors`?"}
    wrong["none"] = "cannot be read: No such file or directory\nhint: give the path of a .safetensors file"
    wrong["picture"] = "is no safetensors file\nhint: give a file in the format of safetensors"
    for name, said in wrong.items():
        ran = lora("weights", "show", tmp_path / f"{name}.safetensors", cwd=tmp_path)
        assert (ran.code, said in ran.err) == (3, True), ran.err


def test_it_imports_neither_torch_nor_numpy(tmp_path):
    made(tmp_path / "a.safetensors", MADE)
    code = "import sys; from lora_training.cli import run; run(['weights', 'show', *['a.safetensors'] * 2]);"
    code += "print({'torch', 'numpy', 'safetensors', 'rich', 'git'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
