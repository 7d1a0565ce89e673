from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest
import yaml

from lora_training.config import importers, schema
from lora_training.config.checks import Machine, check
from lora_training.config.loading import load
from lora_training.errors import ConfigError
from lora_training.tomls import loads
from tests.config.foreign import COMMAND, KOHYA, TOOL_1, TOOL_23, TOOL_VERSIONS, safetensors

if TYPE_CHECKING:
    from lora_training.config.importers import Draft


@pytest.fixture
def imported(tmp_path, real):
    """Import a file of that name and content, through upstream's schema at the pin."""

    def run(name: str, content: str | bytes, *, script: str | None = None) -> Draft:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return importers.convert(importers.read(path), real.__getitem__, script=script)

    return run


def outcome(result: Draft, key: str) -> tuple[str, str | None]:
    (row,) = [row for row in result.rows if row.key == key]
    return row.outcome, row.to


def accounted(result: Draft, keys) -> bool:
    """Whether every key of the source is in the report exactly once."""
    reported = [row.key for row in result.rows]
    return sorted(reported) == sorted(keys)


class TestKohyaGui:
    @pytest.fixture
    def result(self, imported):
        return imported("gui.json", json.dumps(KOHYA))

    def test_every_key_is_accounted_for(self, result):
        extra = ["additional_parameters --ip_noise_gamma", "additional_parameters --unheard_of"]
        assert accounted(result, [k for k in KOHYA if k != "additional_parameters"] + extra)

    def test_names_of_the_gui_become_upstream_s(self, result):
        assert result.schema.script == "sdxl_train_network"
        assert outcome(result, "optimizer") == ("renamed", "optimizer_type")
        assert outcome(result, "max_resolution") == ("renamed", "resolution")
        assert outcome(result, "epoch") == ("renamed", "max_train_epochs")
        assert outcome(result, "sdxl_no_half_vae") == ("renamed", "no_half_vae")
        assert result.values["lr_warmup_steps"] == 0.1
        assert result.values["sdpa"] is True
        assert result.launch == {"num_processes": 2, "gpu_ids": [0, 1]}

    def test_a_zero_that_the_gui_would_drop_is_kept(self, result):
        kept = {key: result.values[key] for key in ("learning_rate", "max_data_loader_n_workers", "max_grad_norm")}
        assert kept == {"learning_rate": 0.0, "max_data_loader_n_workers": 0, "max_grad_norm": 0}
        assert outcome(result, "min_snr_gamma") == ("defaulted", None)

    def test_texts_become_numbers(self, result):
        assert (result.values["keep_tokens"], result.values["seed"]) == (1, 1234)

    def test_the_network_gets_its_own_arguments_and_no_others(self, result):
        assert result.values["network_module"] == "networks.lora"
        assert result.values["network_args"] == {
            "conv_dim": 8,
            "conv_alpha": 4,
            "rank_dropout": 0.1,
            "loraplus_lr_ratio": 16,
        }
        assert outcome(result, "use_tucker") == ("defaulted", None)

    def test_a_unet_rate_alone_trains_the_unet_alone(self, result):
        assert result.values["network_train_unet_only"] is True

    def test_the_kind_of_noise_is_the_chosen_one(self, result):
        assert "noise_offset" not in result.values
        assert result.values["multires_noise_iterations"] == 6

    def test_what_cannot_be_carried_over_is_said(self, result):
        lost = {row.key for row in result.rows if row.outcome == "lost"}
        assert lost == {"sample_prompts", "stop_text_encoder_training", "additional_parameters --unheard_of"}
        assert "#   sample_prompts: " in result.toml()

    def test_another_family_s_settings_are_left_out(self, result):
        assert outcome(result, "flux1_cache_text_encoder_outputs") == ("defaulted", None)
        assert outcome(result, "t5xxl") == ("defaulted", None)

    @pytest.mark.parametrize(
        ("kind", "box", "module", "argument"),
        [
            ("Standard", "sdxl", "networks.lora", None),
            ("Standard", "sd3_checkbox", "networks.lora_sd3", None),
            ("Flux1", "flux1_checkbox", "networks.lora_flux", None),
            ("Kohya DyLoRA", "sdxl", "networks.dylora", ("unit", 2)),
            ("LyCORIS/LoKr", "sdxl", "lycoris.kohya", ("algo", "lokr")),
            ("LyCORIS/Diag-OFT", "sdxl", "lycoris.kohya", ("constraint", 0.5)),
            ("LyCORIS/DyLoRA", "sdxl", "lycoris.kohya", ("block_size", 2)),
        ],
    )
    def test_each_type_of_network_finds_its_module(self, imported, kind, box, module, argument):
        content = {"LoRA_type": kind, box: True, "unit": 2, "constrain": 0.5}
        result = imported("gui.json", json.dumps(content))
        assert result.values["network_module"] == module
        assert argument is None or result.values["network_args"][argument[0]] == argument[1]

    def test_a_configuration_of_another_tab_is_refused(self, imported):
        with pytest.raises(ConfigError, match="not of a LoRA"):
            imported("gui.json", '{"pretrained_model_name_or_path": "x", "model_list": "custom"}')


class TestFlatToml:
    def test_tables_have_no_meaning_and_renamed_keys_are_found(self, imported):
        text = 'model_train_type = "sdxl-lora"\n[a]\nseed = 0\n[b.c]\nlr_restart_cycles = 2\nreg_data_dir = ""\n'
        result = imported("x.toml", text)
        assert result.schema.script == "sdxl_train_network"
        assert result.values == {"seed": 0, "lr_scheduler_num_cycles": 2}
        assert accounted(result, ["model_train_type", "seed", "lr_restart_cycles", "reg_data_dir"])

    def test_settings_of_lora_scripts_forms_find_their_places(self, imported):
        text = 'model_train_type = "sd-lora"\nlycoris_algo = "lokr"\nlokr_factor = 8\ndropout = 0\nconv_dim = 4\n'
        text += 'prodigy_d_coef = "2.0"\nprompt_file = "p.txt"\npositive_prompts = "a"\nsample_width = 512\n'
        text += 'gpu_ids = ["0", "1"]\nnetwork_args_custom = ["x=1"]\nui_custom_params = "a = 1"\n'
        text += 'optimizer_args_custom = ["decouple=True"]\nnetwork_args = {y = 2}\n'
        result = imported("x.toml", text)
        assert result.values == {
            "network_args": {"y": 2, "algo": "lokr", "factor": 8, "conv_dim": 4, "x": 1},
            "optimizer_args": ["d_coef=2.0", "decouple=True"],
            "sample_prompts": "p.txt",
        }
        assert result.launch == {"gpu_ids": [0, 1]}
        assert {row.key for row in result.rows if row.outcome == "lost"} == {"positive_prompts", "ui_custom_params"}

    def test_strings_that_upstream_would_have_passed_on_become_numbers(self, imported):
        result = imported(
            "x.toml", 'learning_rate = "1e-4"\nmax_train_steps = 10.0\nbogus = 1\n', script="train_network"
        )
        assert result.values == {"learning_rate": 1e-4, "max_train_steps": 10}
        assert outcome(result, "bogus") == ("lost", None)

    def test_a_dataset_configuration_stays_whole(self, imported):
        text = (
            '[general]\nenable_bucket = true\n[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "a"\n'
        )
        data = imported("x.toml", text, script="train_network").data()
        assert data["general"] == {"enable_bucket": True}
        assert data["datasets"] == [{"resolution": 512, "subsets": [{"image_dir": "a"}]}]

    def test_a_file_that_says_no_script_is_guessed_and_says_so(self, imported):
        result = imported("x.toml", 'pretrained_model_name_or_path = "sd_xl_base.safetensors"\n')
        assert result.schema.script == "sdxl_train_network"
        assert any(row.key == "(script)" and "--script" in (row.note or "") for row in result.rows)

    def test_a_file_of_ours_is_recognised(self, imported):
        with pytest.raises(ConfigError, match="already a configuration for lora"):
            imported("x.toml", 'script = "train_network"\n')


class TestCommandLine:
    def test_flags_are_read_as_upstream_s_parser_would(self, imported):
        result = imported("train.sh", COMMAND)
        assert result.schema.script == "flux_train_network"
        assert result.values == {
            "pretrained_model_name_or_path": "a b.safetensors",
            "network_args": {"loraplus_lr_ratio": 16, "x": "a b"},
            "optimizer_args": ["weight_decay=0.1"],
            "text_encoder_lr": [1e-5, 2e-5],
            "cache_latents": True,
            "learning_rate": 3.0,
            "max_train_steps": 6,
        }

    def test_the_launcher_s_words_go_to_launch(self, imported):
        result = imported("train.sh", COMMAND)
        assert result.launch == {"num_cpu_threads_per_process": 1, "mixed_precision": "bf16", "gpu_ids": [0, 1]}
        assert outcome(result, "accelerate --dynamo_mode") == ("lost", None)
        assert outcome(result, "--cache_latents") == ("mapped", None)

    def test_windows_paths_and_continuations_are_read(self, imported):
        text = "set LR=1e-3\r\nrem --seed 1\r\naccelerate launch ^\r\n C:\\sd\\train_network.py ^\r\n"
        text += ' --output_dir "D:\\my out" --learning_rate %LR% --network_args "x=C:\\a"\r\n'
        result = imported("t.bat", text)
        assert result.values == {"output_dir": "D:\\my out", "learning_rate": 1e-3, "network_args": {"x": "C:\\a"}}

    def test_variables_that_the_script_sets_are_filled_in(self, imported):
        text = "lr='2e-4'\nMODEL=a/b # c\nNAME=x\npython train_network.py --learning_rate=$lr "
        text += "--output_name ${NAME} --vae $GONE"
        result = imported("t.sh", text)
        assert result.values == {"learning_rate": 2e-4, "output_name": "x", "vae": "$GONE"}

    def test_powershell_is_read(self, imported):
        text = '$lr = "3e-4"\naccelerate launch `\n  train_network.py `\n  --learning_rate=$lr --seed 5\n'
        assert imported("t.ps1", text).values == {"learning_rate": 3e-4, "seed": 5}

    def test_its_dataset_configuration_is_taken_in(self, imported, tmp_path):
        (tmp_path / "d.toml").write_text("[[datasets]]\nresolution = 512\n")
        result = imported("t.txt", "python train_network.py --dataset_config d.toml")
        assert result.datasets == [{"resolution": 512}]
        assert "dataset_config" not in result.values

    @pytest.mark.parametrize("name", ["gone.toml", "${NOPE}/d.toml", "~nobody/d.toml", "x" * 5000 + ".toml"])
    def test_a_dataset_configuration_that_cannot_be_read_stays_a_flag(self, imported, name):
        result = imported("t.txt", f"python train_network.py --dataset_config '{name}'")
        assert result.values["dataset_config"] == name

    def test_a_file_that_is_not_there_or_not_utf8_has_a_hint(self, tmp_path):
        (tmp_path / "preset.json").write_bytes(b"\xff\xfe{\0")
        hints = {
            "prest.json": "did you mean `preset.json`?",
            "nix.json": "give the path",
            "preset.json": "iconv -f UTF-16",
        }
        for name, hint in hints.items():
            with pytest.raises(ConfigError) as caught:
                importers.read(tmp_path / name)
            assert hint in str(caught.value.hint)

    @pytest.mark.parametrize(
        ("text", "message"),
        [("accelerate launch train_db.py", "no \\*train_network.py"), ("train_network.py --a 'b", "cannot be read")],
    )
    def test_what_is_no_training_command_is_refused(self, imported, text, message):
        with pytest.raises(ConfigError, match=message):
            imported("t.sh", text)


class TestMetadata:
    CONTENT: ClassVar = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "4.0",
        "ss_network_args": '{"conv_dim": "4", "dropout": null}',
        "ss_learning_rate": "0.0001",
        "ss_unet_lr": "None",
        "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))",
        "ss_max_train_steps": "100",
        "ss_num_epochs": "10",
        "ss_cache_latents": "True",
        "ss_gradient_checkpointing": "False",
        "ss_debiased_estimation": "True",
        "ss_sd_model_name": "sd_xl_base_1.0.safetensors",
        "ss_session_id": "123",
        "ss_sd_model_hash": "abc",
        "ss_datasets": json.dumps(
            [
                {
                    "is_dreambooth": True,
                    "batch_size_per_device": 2,
                    "resolution": [1024, 1024],
                    "enable_bucket": True,
                    "subsets": [{"image_dir": "cats", "num_repeats": 3, "img_count": 4, "shuffle_caption": False}],
                }
            ]
        ),
    }

    def test_a_lora_gives_the_configuration_that_trained_it(self, imported):
        result = imported("l.safetensors", safetensors({**self.CONTENT, "modelspec.title": "x"}))
        assert result.schema.script == "sdxl_train_network"
        assert result.values == {
            "network_module": "networks.lora",
            "network_dim": 8,
            "network_alpha": 4.0,
            "network_args": {"conv_dim": 4},
            "learning_rate": 0.0001,
            "optimizer_type": "AdamW8bit",
            "optimizer_args": ["weight_decay=0.1", "betas=(0.9,0.99)"],
            "max_train_steps": 100,
            "cache_latents": True,
            "debiased_estimation_loss": True,
            "pretrained_model_name_or_path": "sd_xl_base_1.0.safetensors",
        }
        subset = {"image_dir": "cats", "num_repeats": 3}
        assert result.datasets == [
            {"resolution": [1024, 1024], "enable_bucket": True, "batch_size": 2, "subsets": [subset]}
        ]
        assert accounted(result, [*self.CONTENT, "(not recorded)"])
        assert outcome(result, "ss_network_dim") == ("mapped", None)
        assert outcome(result, "ss_datasets") == ("mapped", None)

    def test_folders_of_an_older_record_become_subsets(self, imported):
        dirs = json.dumps({"10_cat": {"n_repeats": 10, "img_count": 3}})
        result = imported("l.safetensors", safetensors({"ss_base_model_version": "sd_v1", "ss_dataset_dirs": dirs}))
        assert result.datasets == [{"subsets": [{"image_dir": "10_cat", "num_repeats": 10, "class_tokens": "cat"}]}]

    @pytest.mark.parametrize("data", [b"", b"12345678", struct.pack("<Q", 2**60) + b"{}", safetensors({})])
    def test_a_file_without_metadata_is_refused(self, imported, data):
        with pytest.raises(ConfigError, match=r"no safetensors file|cut off in its header|no ss_\* metadata"):
            imported("l.safetensors", data)


class TestTrainLoraTool:
    def test_the_oldest_files_are_taken_over(self, imported):
        result = imported("c.yaml", TOOL_1)
        assert result.schema.script == "train_network"
        assert result.values == {
            "network_module": "networks.lora",
            "pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5",
            "network_dim": 16,
            "network_alpha": 32,
            "max_train_epochs": 10,
            "optimizer_type": "AdamW",
            "learning_rate": 1e-4,
            "lr_scheduler": "cosine",
            "save_every_n_epochs": 2,
            "output_dir": "out",
            "mixed_precision": "fp16",
            "logging_dir": "logs",
            "min_snr_gamma": 5,
            "network_train_unet_only": True,
            "optimizer_args": ["betas=0.9,0.999", "weight_decay=0.01"],
        }
        subset = {"image_dir": "data/train", "flip_aug": True, "caption_extension": ".txt"}
        assert result.datasets == [{"resolution": 512, "batch_size": 1, "subsets": [subset]}]

    def test_the_newest_files_are_too(self, imported):
        result = imported("c.yml", TOOL_23)
        assert result.schema.script == "sdxl_train_network"
        assert result.values["network_args"] == {
            "loraplus_lr_ratio": 16.0,
            "loraplus_unet_lr_ratio": 16.0,
            "loraplus_text_encoder_lr_ratio": 4.0,
        }
        wanted = {
            "loss_type": "smooth_l1",
            "huber_c": 0.1,
            "huber_schedule": "snr",
            "optimizer_type": "Prodigy",
            "min_snr_gamma": 5.0,
            "noise_offset": 0.1,
            "multires_noise_iterations": 6,
            "multires_noise_discount": 0.35,
            "cache_latents": True,
            "log_with": "tensorboard",
        }
        assert {key: result.values[key] for key in wanted} == wanted
        assert result.datasets[0]["enable_bucket"] is True
        assert result.datasets[0]["subsets"][0]["keep_tokens"] == 2

    def test_what_sd_scripts_does_not_have_is_said(self, imported):
        lost = {row.key for row in imported("c.yml", TOOL_23).rows if row.outcome == "lost"}
        assert lost == {"training.adaptive_loss_weight"}

    @pytest.mark.parametrize("version", TOOL_VERSIONS)
    def test_every_key_of_a_version_has_an_outcome_and_only_these_are_lost(self, imported, version):
        content, lost = TOOL_VERSIONS[version]
        result = imported("c.yml", content)
        assert {row.key for row in result.rows if row.outcome == "lost"} == lost
        tables = yaml.safe_load(content)
        assert accounted(result, [f"{name}.{key}" for name, table in tables.items() for key in table])

    def test_the_average_of_the_weights_is_a_runtime_patch_here(self, imported):
        result = imported("c.yml", TOOL_23)
        assert result.runtime == {"ema": {"decay": 0.999}}
        assert loads(result.toml())["runtime"] == {"ema": {"decay": 0.999}}
        off = imported("d.yml", TOOL_23.replace("use_ema: true", "use_ema: false"))
        assert off.runtime == {}


@pytest.mark.parametrize(
    ("name", "content", "trainer"),
    [
        ("a.json", '{"__version": 3, "training_method": "LORA", "concept_file_name": "x"}', "OneTrainer"),
        ("a.json", '{"--model_type": "lora", "--model_family": "sdxl"}', "SimpleTuner"),
        ("a.yaml", "job: extension\nconfig: {name: x, process: []}\n", "ai-toolkit"),
        ("a.toml", "pipeline_stages = 1\n[model]\n[adapter]\n", "diffusion-pipe"),
    ],
)
def test_a_trainer_that_we_cannot_carry_over_is_refused_by_name(imported, name, content, trainer):
    with pytest.raises(ConfigError, match=f"a configuration of {trainer}"):
        imported(name, content)


LETTERS = "abcdefghij"
BOMB = list(pairwise(LETTERS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "{"),
        ("a.json", "[]"),
        ("a.json", "{}"),
        ("a.toml", "a ="),
        ("a.yaml", "a: [b"),
        ("a.yaml", "training: &a [*a]\nlora: 1\n"),
        (
            "a.yaml",
            "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{n}: &{n} [{','.join(['*' + o] * 9)}]\n" for o, n in BOMB),
        ),
        ("a.yaml", "a: 1"),
        ("a.bin", "x"),
        ("a.json", b"\xff"),
    ],
)
def test_a_file_of_no_known_kind_is_one_error(imported, name, content):
    with pytest.raises(ConfigError):
        imported(name, content)


def test_what_is_imported_can_be_loaded_and_has_only_problems_of_paths(imported, tmp_path, real):
    for name, content in (("gui.json", json.dumps(KOHYA)), ("c.yaml", TOOL_23)):
        path = tmp_path / "made.toml"
        path.write_text(imported(name, content).toml(), encoding="utf-8")
        loaded = load(path, environ={})
        found = check(loaded, real[loaded.script], Machine())
        # the preset pairs Prodigy with LoRA+, which would end in the first step, and a warm-up with a constant rate
        known = ("does not exist", "takes one learning rate", "refuses `lr_warmup_steps`")
        assert [p for p in found if p.severity == "error" and not any(part in p.message for part in known)] == []


def test_the_schema_of_the_small_tree_will_do_for_an_import(tree, tmp_path):
    (tmp_path / "x.toml").write_text("learning_rate = 1.0\n")
    source = importers.read(Path(tmp_path / "x.toml"))
    made = importers.convert(source, lambda name: schema.read(tree, name), script="train_network")
    assert made.values == {"learning_rate": 1.0}


pytestmark = pytest.mark.upstream
