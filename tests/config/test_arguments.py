from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.config.argv import dataset_document, to_argv
from lora_training.errors import ConfigError

BASE = 'script = "train_network"\n'


@pytest.fixture
def argv(config, small):
    return lambda text, **kwargs: to_argv(config(BASE + text), small, **kwargs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 0", ["--seed", "0"]),
        ("learning_rate = 0.0", ["--learning_rate", "0.0"]),
        ('network_module = ""', ["--network_module", ""]),
        ("cache_latents = true", ["--cache_latents"]),
        ("cache_latents = false", []),
        ("network_args = []", ["--network_args"]),
        ("text_encoder_lr = [1e-5, 2]", ["--text_encoder_lr", "1e-05", "2"]),
        ("text_encoder_lr = [-1e-5, 2]", ["--text_encoder_lr", "-0.00001", "2"]),
        ("text_encoder_lr = 1e-4", ["--text_encoder_lr", "0.0001"]),
        ("learning_rate = -1.0", ["--learning_rate=-1.0"]),
        ('network_module = "-x"', ["--network_module=-x"]),
        ("lr_warmup_steps = 0.1", ["--lr_warmup_steps", "0.1"]),
        ('lr_warmup_steps = "10%"', ["--lr_warmup_steps", "10%"]),
        (
            'network_args = {a = 1, b = "x=y", c = true, d = [1, 2.5]}',
            ["--network_args", "a=1", "b=x=y", "c=True", "d=1,2.5"],
        ),
        ("[n.network_args]\nloraplus_lr_ratio = 16", ["--network_args", "loraplus_lr_ratio=16"]),
    ],
)
def test_a_value_becomes_the_words_for_it(argv, text, words):
    assert argv(text) == words


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('seed = "1"', "`seed` must be a whole number, not '1'", "write it without quotes: 1"),
        ("seed = 1.0", "must be a whole number", None),
        ("seed = true", "not true", None),
        ("cache_latents = 1", "must be true or false", None),
        ('cache_latents = "false"', "must be true or false", None),
        ("resolution = 512", "must be a string", 'write it in quotes: "512"'),
        ("resolution = [512, 768]", "must be a string", 'write it in quotes: "512,768"'),
        ('save_precision = "fp15"', "cannot be 'fp15'", "did you mean 'fp16'? legal: fp16, bf16"),
        ('lr_warmup_steps = "many"', "cannot be 'many'", None),
        ("[g]\ntext_encoder_lr = {a = 1}", "not a table", None),
        ("network_args = {a = {b = 1}}", "cannot be written as key=value", "give a number"),
        ('network_args = ["--x=1", "b=2"]', "cannot start with `-`", None),
        ('network_module = "a\\u0000b"', "NUL", None),
        ('network_module = "--"', "cannot take `--`", None),
        ("learning_rat = 1", "no flag `learning_rat`", "did you mean `learning_rate`?"),
        ("batch_size = 1", "no flag `batch_size`", "under [[datasets]]"),
        ('output_dir = "${NOPE}/x"', "no variable 'NOPE'", None),
    ],
)
def test_a_value_that_upstream_would_not_take_is_refused_with_its_place(argv, text, message, hint):
    with pytest.raises(ConfigError) as caught:
        argv(text)
    assert "config.toml:" in caught.value.message
    assert message in caught.value.message
    assert hint is None or hint in caught.value.hint


def test_paths_are_relative_to_the_file_and_hub_ids_stay(argv, tmp_path):
    (tmp_path / "here").mkdir()
    text = 'output_dir = "out"\npretrained_model_name_or_path = "{}"'
    assert argv(text.format("here")) == [
        *("--output_dir", str(tmp_path / "out"), "--pretrained_model_name_or_path", str(tmp_path / "here")),
    ]
    assert argv(text.format("stable/diffusion"))[3] == "stable/diffusion"
    assert argv(text.format("./gone"))[3] == str(tmp_path / "gone")
    assert argv(text.format("gone.safetensors"))[3] == str(tmp_path / "gone.safetensors")
    assert argv(text.format("~/x"))[3] == str(Path("~/x").expanduser())
    assert argv(text.format("${LORA_CACHE}/x"))[3] == str(tmp_path / "cache/x")


def test_a_text_from_outside_stays_a_text(config, small):
    loaded = config(BASE, sets=("network_module=123", "seed=5"))
    assert to_argv(loaded, small) == ["--network_module", "123", "--seed", "5"]


def test_the_dataset_configuration_is_json_with_absolute_paths(config, tmp_path):
    text = '[general]\nenable_bucket = true\n[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\n'
    loaded = config(BASE + text + 'custom_attributes = {image_dir = "b"}\n')
    assert dataset_document(loaded) == {
        "general": {"enable_bucket": True},
        "datasets": [
            {
                "resolution": 64,
                "subsets": [{"image_dir": str(tmp_path / "a"), "custom_attributes": {"image_dir": "b"}}],
            }
        ],
    }


def test_without_datasets_there_is_no_dataset_configuration(config, small):
    loaded = config(BASE + "seed = 1")
    assert dataset_document(loaded) is None
    assert to_argv(loaded, small, dataset_config=Path("/d.json"))[-2:] == ["--dataset_config", "/d.json"]
