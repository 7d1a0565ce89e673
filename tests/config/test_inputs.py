"""Which files a training reads, found from its configuration alone."""

from __future__ import annotations

import json
from pathlib import Path

from lora_training.config.files import inputs
from tests.config.helpers import images
from tests.helpers import write

BASE = 'script = "train_network"\n'


def names(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def test_images_and_captions_count_and_caches_do_not(config, small, tmp_path):
    write(images(tmp_path / "cats"), {"0_sd.npz": "", "notes.md": "", "0.txt~": "", "deeper/9.png": ""})
    found = inputs(config(BASE + '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "cats"'), small)
    assert names(found.dataset) == ["0.png", "0.txt", "1.png", "1.txt"]
    assert found.models == ()


def test_captions_have_the_ending_that_is_configured(config, small, tmp_path):
    images(tmp_path / "cats", captions=".tags", count=1)
    subset = '[[datasets.subsets]]\nimage_dir = "cats"\ncaption_extension = ".tags"'
    assert names(inputs(config(f"{BASE}[[datasets]]\n{subset}"), small).dataset) == ["0.png", "0.tags"]


def test_what_a_metadata_file_lists_counts_wherever_it_lies(config, small, tmp_path):
    write(images(tmp_path / "cats", count=1), {"deeper/9.png": ""})
    elsewhere = images(tmp_path / "dogs", captions=None, count=1) / "0.png"
    (tmp_path / "meta.json").write_text(json.dumps({str(elsewhere): {"caption": "a dog"}, "9": {}}), encoding="utf-8")
    subset = '[[datasets.subsets]]\nmetadata_file = "meta.json"\nimage_dir = "cats"'
    found = inputs(config(f"{BASE}[[datasets]]\n{subset}"), small).dataset
    assert sorted(names(found)) == ["0.png", "0.png", "0.txt", "9.png", "meta.json"]


def test_a_dataset_configuration_of_upstreams_own_form_is_followed(config, small, tmp_path):
    images(tmp_path / "cats", count=1)
    own = f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{tmp_path}/cats"\n'
    write(tmp_path, {"data.toml": own})
    found = inputs(config(f'{BASE}dataset_config = "data.toml"'), small).dataset
    assert sorted(names(found)) == ["0.png", "0.txt", "data.toml"]


def test_models_are_read_to_their_last_file_and_what_is_written_is_not(config, small, tmp_path):
    write(tmp_path, {"model/unet/a.safetensors": "", "model/model_index.json": "", "out/old.safetensors": ""})
    found = inputs(config(f'{BASE}pretrained_model_name_or_path = "./model"\noutput_dir = "out"'), small)
    assert names(found.models) == ["model_index.json", "a.safetensors"]


def test_what_is_not_there_or_on_the_hub_is_left_to_others(config, small):
    text = 'pretrained_model_name_or_path = "org/name"\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "nowhere"'
    found = inputs(config(BASE + text), small)
    assert (found.dataset, found.models) == ((), ())
