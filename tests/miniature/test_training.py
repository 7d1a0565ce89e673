from __future__ import annotations

import json
import re
import runpy

import pytest

from tests.miniature.conftest import SCRIPT, write_dataset

pytest.importorskip("torch", reason="needs the training packages: `make setup`")

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lora_training.miniature import trainer


def same(one, other):
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def items(config, epoch=0):
    images = trainer.Images(config, 1)
    return [images[key] for batch in images.batches(7, epoch) for key in batch]


def metadata(file):
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_a_run_leaves_files_under_upstreams_names(whole):
    done, out = whole
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {
        "tiny-step00000003.safetensors",
        "tiny-step00000003-state",
        "tiny.safetensors",
        "tiny-state",
    }
    assert json.loads((out / "tiny-step00000003-state" / "train_state.json").read_text()) == {
        "current_epoch": 2,
        "current_step": 3,
    }


def test_a_run_says_what_upstream_says(whole):
    done, out = whole
    assert [line for line in done.stdout.splitlines() if line.startswith("epoch")] == [
        f"epoch {n}/3" for n in (1, 2, 3)
    ]
    saved = [line for line in done.stdout.splitlines() if line.startswith("saving checkpoint: ")]
    names = ("tiny-step00000003.safetensors", "tiny.safetensors")
    assert saved == [f"saving checkpoint: {out / name}" for name in names]
    assert "saving state at step 3" in done.stderr
    assert "saving last state." in done.stderr
    assert re.search(r"steps: 100%\|.*\| 5/5 \[.*, avr_loss=\d", done.stderr)


def test_the_metadata_says_what_was_trained(whole):
    said = metadata(whole[1] / "tiny-step00000003.safetensors")
    expected = {"steps": "3", "epoch": "1", "max_train_steps": "5", "network_dim": "None", "network_alpha": "1"}
    assert {key: said[f"ss_{key}"] for key in expected} == expected
    assert said["ss_network_module"] == "networks.lora"
    assert metadata(whole[1] / "tiny.safetensors")["ss_steps"] == "5"


def test_epochs_are_counted_and_named(train, tmp_path):
    ended = train(tmp_path, max_train_epochs=3, save_every_n_epochs=1, save_state=True)
    checkpoints = ["tiny-000001.safetensors", "tiny-000002.safetensors", "tiny.safetensors"]
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == checkpoints
    assert sorted(path.name for path in tmp_path.glob("*-state")) == [
        "tiny-000001-state",
        "tiny-000002-state",
        "tiny-state",
    ]
    assert (metadata(ended)["ss_steps"], metadata(ended)["ss_epoch"]) == ("6", "3")


def test_loader_processes_change_nothing(whole, train, tmp_path):
    file = train(tmp_path, max_data_loader_n_workers=2, persistent_data_loader_workers=True)
    assert same(file, whole[1] / "tiny.safetensors")


def test_another_seed_gives_another_lora(whole, train, tmp_path):
    assert not same(train(tmp_path, seed=43), whole[1] / "tiny.safetensors")


def test_clip_skip_changes_what_is_learnt(whole, train, tmp_path):
    assert not same(train(tmp_path, clip_skip=2), whole[1] / "tiny.safetensors")


def test_the_text_encoder_is_left_out_on_request_and_the_precision_is_kept(train, tmp_path):
    weights = load_file(train(tmp_path, network_train_unet_only=True, save_precision="fp16", network_dim=2))
    assert {key.split("_")[1] for key in weights} == {"unet"}
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert {value.shape[0] for key, value in weights.items() if "lora_down" in key} == {2}


def test_the_lora_loads_into_diffusers_and_changes_the_picture(whole, material):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(material / "model", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    names = {name for name, part in pipeline.unet.named_modules() if "attn" in name and type(part).__name__ == "Linear"}

    def picture():
        noise = torch.Generator().manual_seed(0)
        return pipeline("a red circle", num_inference_steps=2, generator=noise, output_type="latent").images

    before = picture()
    pipeline.load_lora_weights(whole[1], weight_name="tiny.safetensors")
    adapted = {
        name.removesuffix(".lora_A.default_0") for name, _ in pipeline.unet.named_modules() if "lora_A.d" in name
    }
    assert names <= adapted
    assert any("lora_A" in name for name, _ in pipeline.text_encoder.named_modules())
    assert not torch.allclose(before, picture(), atol=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image_dir": "nowhere"}, "No such file or directory: 'nowhere'"),
        ({"flip_aug": True}, "unknown to the miniature or of a wrong type: flip_aug"),
        ({"num_repeats": "two"}, "unknown to the miniature or of a wrong type: num_repeats"),
    ],
)
def test_a_wrong_dataset_config_is_one_clear_error(train, material, tmp_path, more, message):
    config = write_dataset(tmp_path / "dataset.toml", material / "images", **more)
    with pytest.raises((OSError, ValueError), match=message):
        train(tmp_path, dataset_config=config)


def test_an_image_of_another_size_needs_a_bucket_and_one_of_another_shape_is_refused(train, material, tmp_path):
    Image.new("RGB", (96, 96)).save(tmp_path / "square.png")
    bucketed = write_dataset(tmp_path / "bucketed.toml", tmp_path, enable_bucket=True, min_bucket_reso=64)
    assert train(tmp_path, dataset_config=bucketed).is_file()
    with pytest.raises(ValueError, match="no bucket for an image of the size"):
        train(tmp_path, dataset_config=write_dataset(tmp_path / "plain.toml", tmp_path))
    Image.new("RGB", (96, 64)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="no bucket for an image of the size"):
        train(tmp_path, dataset_config=bucketed)


def test_a_missing_caption_is_the_class_tokens(tmp_path, material):
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    config = write_dataset(tmp_path / "dataset.toml", tmp_path, class_tokens="shs cat", shuffle_caption=False)
    assert [caption for _, caption in items(config)] == ["shs cat"]


def test_shuffling_keeps_the_first_tags_and_all_the_others(material):
    captions = {caption for epoch in range(8) for _, caption in items(material / "dataset.toml", epoch)}
    assert {caption.partition(", ")[0] for caption in captions} == {"smoke"}
    tags = {caption: frozenset(caption.split(", ")) for caption in captions}
    assert len(set(tags.values())) == 4 < len(captions)


def test_repeats_are_drawn_as_often_in_every_epoch(material, tmp_path):
    config = write_dataset(tmp_path / "dataset.toml", material / "images", num_repeats=3)
    images = trainer.Images(config, 1)
    orders = [[index for batch in images.batches(7, epoch) for index, _ in batch] for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [sorted([0, 1, 2, 3] * 3)] * 2
    assert orders[0] != orders[1]


def test_an_empty_dataset_is_an_error(flags, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    config = write_dataset(tmp_path / "dataset.toml", tmp_path / "images")
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *flags(tmp_path / "out", dataset_config=config)])
    # a text as the exit status is written to stderr and ends the process with 1
    with pytest.raises(SystemExit, match=r"^error: No data found"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_an_error_without_asking_the_hub(train, tmp_path):
    with pytest.raises((OSError, ValueError), match="nothing"):
        train(tmp_path, pretrained_model_name_or_path=tmp_path / "nothing")
