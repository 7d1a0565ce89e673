from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lora_training import config as cfg
from lora_training import workspace
from lora_training.config import files
from lora_training.config.argv import dataset_document, to_argv
from lora_training.config.loading import load
from lora_training.config.model import Config
from tests.helpers import ROOT, write

if TYPE_CHECKING:
    from lora_training.config.schema import Schema

pytestmark = pytest.mark.upstream


@pytest.fixture(scope="module")
def schema(sd_scripts: Path) -> Schema:
    return cfg.schema.read(sd_scripts, "flux_train_network", cache=workspace.Workspace(ROOT).cache)


def loaded(folder: Path, text: str, **environ: str) -> Config:
    write(folder, {"my.toml": f'script = "flux_train_network"\n{text}'})
    return load(folder / "my.toml", environ=environ)


def named(folder: Path, schema: Schema, text: str) -> dict[str, Any]:
    """Return each path relative to the folder, with its use: made, written or read."""
    found = files.named_paths(loaded(folder, text), schema)
    return {str(p.path.relative_to(folder)): "made" if p.made else "written" if p.written else "read" for p in found}


def test_every_path_of_the_flags_is_named(schema: Schema, tmp_path: Path) -> None:
    text = """
    pretrained_model_name_or_path = "m/flux.safetensors"
    ae = "m/ae.safetensors"
    clip_l = "./m/clip"
    t5xxl = "m/t5.safetensors"
    network_weights = "w/a.safetensors"
    base_weights = ["w/b.safetensors", "w/c.safetensors"]
    sample_prompts = "p.txt"
    output_dir = "out"
    logging_dir = "logs"
    console_log_file = "log/console.txt"
    offload_optimizer_nvme_path = "/nvme"
    """
    places = {str(place.path): place for place in files.named_paths(loaded(tmp_path, text), schema)}
    read = ("m/flux.safetensors", "m/ae.safetensors", "m/clip", "m/t5.safetensors", "p.txt")
    for name in (*read, *(f"w/{letter}.safetensors" for letter in "abc")):
        assert not places[f"{tmp_path}/{name}"].written, name
    for name in ("out", "logs", "log/console.txt"):
        assert places[f"{tmp_path}/{name}"].made, name
    assert places["/nvme"].written
    assert places[f"{tmp_path}/log/console.txt"].folder == tmp_path / "log"
    assert places[f"{tmp_path}/out"].folder == tmp_path / "out"


def test_a_name_of_the_hub_is_no_place(schema: Schema, tmp_path: Path) -> None:
    assert named(tmp_path, schema, 'pretrained_model_name_or_path = "black-forest-labs/FLUX.1-dev"') == {}


def test_a_folder_that_is_named_like_a_hub_id_is_one(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert named(tmp_path, schema, 'pretrained_model_name_or_path = "org/model"') == {"org/model": "read"}


SUBSETS = """
[general]
{general}
[[datasets]]
  [[datasets.subsets]]
  image_dir = "a"
  {subset}
  [[datasets.subsets]]
  image_dir = "b"
  conditioning_data_dir = "c"
  custom_attributes = {{ image_dir = "not a place" }}
"""


def test_images_are_read(schema: Schema, tmp_path: Path) -> None:
    text = SUBSETS.format(general="", subset="")
    assert named(tmp_path, schema, text) == {"a": "read", "b": "read", "c": "read"}


@pytest.mark.parametrize("key", ["cache_latents_to_disk", "cache_text_encoder_outputs_to_disk", "cache_info"])
def test_what_upstream_keeps_beside_the_images_makes_their_folders_writable(
    schema: Schema, tmp_path: Path, key: str
) -> None:
    off, on = (f"{key} = {value}\n" + SUBSETS.format(general="", subset="") for value in ("false", "true"))
    assert set(named(tmp_path, schema, off).values()) == {"read"}
    assert named(tmp_path, schema, on) == {"a": "written", "b": "written", "c": "read"}


def test_a_subset_alone_may_ask_for_it(schema: Schema, tmp_path: Path) -> None:
    text = SUBSETS.format(general="", subset="cache_info = true")
    assert named(tmp_path, schema, text)["a"] == "written"


def test_images_that_a_metadata_file_names_by_their_whole_path_are_found(schema: Schema, tmp_path: Path) -> None:
    images = {"/far/x/1.png": {}, "/far/x/2.png": {}, "near": {}, "/far/y/3": {}}
    write(tmp_path, {"meta.json": json.dumps(images)})
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nmetadata_file = "meta.json"\n'
    paths = [str(place.path) for place in files.named_paths(loaded(tmp_path, text), schema)]
    assert paths == [f"{tmp_path}/a", f"{tmp_path}/meta.json", "/far/x", "/far/y"]


def test_only_what_means_something_else_elsewhere_is_rewritten(schema: Schema, tmp_path: Path) -> None:
    text = """
    pretrained_model_name_or_path = "${MODELS}/flux.safetensors"
    ae = "ae.safetensors"
    clip_l = "${LORA_CACHE}/clip"
    base_weights = ["b.safetensors", "~/c.safetensors"]
    [run]
    resume = "${MODELS}/state"
    [[datasets]]
      [[datasets.subsets]]
      image_dir = "a"
      [[datasets.subsets]]
      image_dir = '${MODELS}/b "c"'
    """
    config = loaded(tmp_path, text, MODELS="/m", LORA_CACHE="/cache")
    items = files.expanded_sets(config, schema)
    assert items == (
        "pretrained_model_name_or_path=/m/flux.safetensors",
        f'base_weights=["{tmp_path}/b.safetensors", "{Path.home()}/c.safetensors"]',
        'datasets.0.subsets.1.image_dir=/m/b "c"',
        "run.resume=/m/state",
    )


def test_with_the_rewritten_values_the_arguments_are_the_same_without_the_environment(
    schema: Schema, tmp_path: Path
) -> None:
    text = """
    pretrained_model_name_or_path = "${MODELS}/flux.safetensors"
    [saving]
    output_dir = "~/out"
    base_weights = ["~/b.safetensors", "./c.safetensors"]
    [[datasets]]
      [[datasets.subsets]]
      image_dir = "${MODELS}/x"
    """
    here = loaded(tmp_path, text, MODELS="/m")
    there = load(here.path, sets=files.expanded_sets(here, schema), environ={})
    assert to_argv(there, schema) == to_argv(here, schema)
    assert dataset_document(there) == dataset_document(here)
