"""Hub files that a training needs are looked for before its start; `lora models fetch` downloads them.

The hub is a server of the test's; huggingface_hub, transformers and diffusers are the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, Ran, lora, write
from tests.hub import Hub, serving
from tests.preflight.helpers import checkpoint, picture

pytest.importorskip("torch")
pytestmark = [pytest.mark.upstream, pytest.mark.usefixtures("sd_scripts")]
CLIP_L, CLIP_G, SD2 = (
    "openai/clip-vit-large-patch14",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "stabilityai/stable-diffusion-2",
)
TRAINING = """
script = "{script}"
pretrained_model_name_or_path = "{model}"
network_module = "networks.lora"
output_dir = "out"
output_name = "it"
max_train_steps = 2
[[datasets]]
resolution = 512
  [[datasets.subsets]]
  image_dir = "images"
"""
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    **{name: ["diffusers", "X"] for name in ("unet", "vae")},
    **{name: ["transformers", "X"] for name in ("text_encoder", "tokenizer", "safety_checker")},
}
DIFFUSERS = {
    "model_index.json": json.dumps(INDEX).encode(),
    **{f"{name}/config.json": b"{}" for name in ("unet", "vae", "text_encoder", "safety_checker")},
    **{f"{name}/diffusion_pytorch_model{end}": b"w" for name in ("unet", "vae") for end in (".safetensors", ".bin")},
    **{f"{name}/model{end}": b"w" for name in ("text_encoder", "safety_checker") for end in (".safetensors", ".bin")},
    "v1-5-pruned.ckpt": b"w",
}
# the repository of a CLIP: its tokenizer, and a model that is not needed
TOKENS = ("<|startoftext|>", "<|endoftext|>", "a", "a</w>", "c", "t</w>")
VOCABULARY = {
    "vocab.json": json.dumps({token: number for number, token in enumerate(TOKENS)}).encode(),
    "merges.txt": b"#version: 0.2\n",
    "tokenizer_config.json": b"{}",
}
CLIP = {**VOCABULARY, "config.json": b"{}", "model.safetensors": b"of gigabytes", "pytorch_model.bin": b"as well"}
LOADS = """
import sys, transformers
for name in sys.argv[1:]:
    print(transformers.CLIPTokenizer.from_pretrained(name)("a cat").input_ids)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}


def training(folder: Path, script: str = "sdxl_train_network", model: str = "model.safetensors") -> Path:
    checkpoint(folder / "model.safetensors", {"conditioner.embedders.1.model.x": (1,)})
    picture(folder / "images" / "a.png", (512, 512))
    write(folder, {"images/a.txt": "a cat", "it.toml": TRAINING.format(script=script, model=model)})
    return folder / "it.toml"


def fetch(file: Path, env: dict[str, str], *words: str) -> Ran:
    return lora("models", "fetch", file, *words, cwd=ROOT, env=env)


@pytest.mark.parametrize(("offline", "why"), [("", "cannot be reached"), ("1", "HF_HUB_OFFLINE is set")])
def test_without_a_network_tokenizers_that_are_not_here_are_named_before_the_start(
    tmp_path: Path, environment: dict[str, str], offline: str, why: str
) -> None:
    file = training(tmp_path)
    ran = lora("train", file, cwd=ROOT, env={**environment, "HF_HUB_OFFLINE": offline})
    assert ran.code == 3, ran.err
    for name in (CLIP_L, CLIP_G):
        assert f"the tokenizer {name} is not in the hub's cache" in ran.err
    assert why in ran.err
    assert f"`lora models fetch {file}` brings it" in ran.err
    assert not list(tmp_path.glob("out/it.run/*.log"))


def test_what_is_fetched_is_what_upstream_loads_and_is_fetched_once(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    file = training(tmp_path)
    with serving(Hub({CLIP_L: CLIP, CLIP_G: CLIP})) as hub:
        ran = fetch(file, environment | hub.env)
        assert ran.code == 0, ran.err
        assert [line.split(" to ")[0] for line in ran.out.splitlines()] == [f"{CLIP_L} brought", f"{CLIP_G} brought"]
    assert not any("model.safetensors" in each or ".bin" in each for each in hub.asked)
    done = json.loads(fetch(file, environment, "--json").out)
    assert [(each["repository"], each["is_new"]) for each in done] == [(CLIP_L, False), (CLIP_G, False)]
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-c", LOADS, CLIP_L, CLIP_G]
    loaded = subprocess.run(argv, env=offline, capture_output=True, check=True)
    assert loaded.stdout == b"[0, 3, 4, 2, 5, 1]\n" * 2
    # the check of the hub passes, and the checks after it run
    ran = lora("config", "check", file, cwd=ROOT, env=offline)
    assert "hub" not in ran.out


def test_a_folder_of_tokenizers_gets_them_in_upstreams_layout(tmp_path: Path, environment: dict[str, str]) -> None:
    file, folder = training(tmp_path, "train_network"), tmp_path / "tokenizers"
    here = ("--set", f"tokenizer_cache_dir={folder}")
    with serving(Hub({CLIP_L: CLIP, SD2: {f"tokenizer/{name}": data for name, data in CLIP.items()}})) as hub:
        ran = fetch(file, environment | hub.env, *here)
        assert (ran.code, ran.out) == (0, f"{CLIP_L} brought to {folder}/openai_clip-vit-large-patch14\n"), ran.err
        # that of SD 2 is in a folder of its repository, which upstream itself copies
        ran = fetch(file, environment | hub.env, *here, "--set", "v2=true")
        assert ran.code == 0, ran.err
    (only,) = folder.iterdir()
    assert VOCABULARY.keys() <= {path.name for path in only.iterdir()}
    snapshot = tmp_path / "hf" / "hub" / "models--stabilityai--stable-diffusion-2" / "snapshots"
    assert VOCABULARY.keys() <= {path.name for path in snapshot.glob("*/tokenizer/*")}


def test_a_model_that_is_a_hub_id_is_brought_as_diffusers_loads_it(tmp_path: Path, environment: dict[str, str]) -> None:
    file = training(tmp_path, "train_network", "some/model")
    ran = lora("train", file, cwd=ROOT, env=environment)
    assert (ran.code, "`pretrained_model_name_or_path`: some/model is not in the hub's cache" in ran.err) == (3, True)
    with serving(Hub({CLIP_L: CLIP, "some/model": DIFFUSERS})) as hub:
        ran = fetch(file, environment | hub.env)
    assert ran.code == 0, ran.err
    root = tmp_path / "hf" / "hub" / "models--some--model" / "snapshots" / ("0" * 40)
    assert {path.name for path in root.rglob("*.*")} == {
        *("model_index.json", "config.json", "diffusion_pytorch_model.safetensors", "model.safetensors")
    }
    assert not (root / "safety_checker").exists()
    assert fetch(file, environment).code == 0


def test_a_gated_repository_says_how_to_come_in_and_the_others_are_brought(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    file = training(tmp_path)
    with serving(Hub({CLIP_L: CLIP, CLIP_G: CLIP}, gated={CLIP_L})) as hub:
        env = environment | hub.env
        for ran, code in ((fetch(file, env), 4), (lora("train", file, cwd=ROOT, env=env), 3)):
            assert ran.code == code
            (error,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
            assert CLIP_L in error
            assert "it is gated" in error
            assert f"accept its terms at {env['HF_ENDPOINT']}/{CLIP_L}, then log in with `hf auth login`" in ran.err
    assert CLIP_G not in ran.err


def test_files_of_this_machine_that_are_not_there_are_named(tmp_path: Path, environment: dict[str, str]) -> None:
    file = training(tmp_path, model="gone.safetensors")
    with serving(Hub({})) as hub:
        ran = fetch(file, environment | hub.env)
    assert ran.code == 4
    assert f"cannot bring {CLIP_L}: the hub has none of that name" in ran.err
    assert f"also: `pretrained_model_name_or_path`: {tmp_path}/gone.safetensors does not exist" in ran.err


def test_a_name_that_the_hub_cannot_have_is_one_problem(tmp_path: Path, environment: dict[str, str]) -> None:
    file = training(tmp_path, "train_network", "some--one/model")
    with serving(Hub({CLIP_L: CLIP})) as hub:
        ran = fetch(file, environment | hub.env)
    assert (ran.code, "cannot bring some--one/model: the hub has none of that name" in ran.err) == (4, True), ran.err


def test_a_hub_id_where_upstream_takes_a_file_is_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    file = training(tmp_path, "anima_train_network", "some/anima")
    refused = "`pretrained_model_name_or_path`: anima_train_network takes a file, and some/anima is none"
    assert refused in lora("config", "check", file, cwd=ROOT, env=environment).out
    ran = fetch(file, environment)
    assert (ran.code, ran.err) == (3, f"error: {refused}\nhint: give the file\n")
    # a folder of a user that does not exist
    again = fetch(file, environment | {"HF_HOME": "~nosuchuser/hf"})
    assert (again.code, again.err) == (ran.code, ran.err)
