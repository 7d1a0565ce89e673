from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lora_training import manifest
from lora_training.preflight import disk, listing, sizes
from tests.helpers import write
from tests.preflight.helpers import checkpoint, job

if TYPE_CHECKING:
    from lora_training.preflight.job import Job
    from lora_training.problems import Problem

# matrices that a LoRA adapts, and tensors that none does
MODEL = {
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (100_000, 60_000),
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": (20_000, 20_000, 1, 1),
    "model.diffusion_model.input_blocks.1.0.emb_layers.1.weight": (90_000, 90_000),
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": (90_000, 90_000, 3, 3),
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (30_000, 20_000),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (90_000, 90_000),
}
MB = 1_000_000


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with a header alone: nothing here reads its data."""
    from lora_training.preflight import contents

    path = checkpoint(tmp_path / "a.safetensors", {"a": (1,)})
    monkeypatch.setattr(contents, "tensors", lambda _path: {n: contents.Tensor("F16", s) for n, s in MODEL.items()})
    return path


def training(folder: Path, model: Path, **more: object) -> Job:
    write(folder, {"images/a.png": "", "images/b.png": "", "out/.keep": ""})
    flags = {"pretrained_model_name_or_path": model, "network_module": "networks.lora", "network_dim": 10}
    return job(folder, {"image_dir": str(folder / "images")}, **flags, **more)


def found(work: Job, free: int) -> list[Problem]:
    return disk.problems(work, listing.subsets(work), frozenset(), lambda _folder: free)


def test_a_lora_and_its_state_are_estimated_from_the_models_header(tmp_path: Path, model: Path) -> None:
    # 10 x (160,000 + 40,000 + 50,000) numbers
    assert sizes.lora(training(tmp_path, model)) == 10 * MB
    assert sizes.lora(training(tmp_path, model, save_precision="bf16")) == 5 * MB
    assert sizes.lora(training(tmp_path, model, network_train_unet_only=True)) == 8 * MB
    assert sizes.state(training(tmp_path, model)) == 30 * MB
    assert sizes.state(training(tmp_path, model, optimizer_type="AdamW8bit")) == 15 * MB


def test_the_estimate_leaves_out_what_animas_lora_does_not_adapt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names are those of its model; upstream adapts the attention and the MLP of its blocks."""
    from lora_training.preflight import contents

    block = ("self_attn.q_proj", "cross_attn.output_proj", "mlp.layer1")
    others = ("blocks.0.adaln_modulation_mlp.1", "final_layer.linear", "x_embedder.proj.1", "t_embedder.1.linear_1")
    adapter = "llm_adapter.blocks.0.self_attn.q_proj"
    names = [*(f"net.blocks.0.{name}.weight" for name in block), *(f"net.{name}.weight" for name in (*others, adapter))]
    shapes = {name: contents.Tensor("BF16", (60_000, 40_000)) for name in names}
    monkeypatch.setattr(contents, "tensors", lambda _path: shapes)
    work = training(tmp_path, checkpoint(tmp_path / "a.safetensors", {"a": (1,)}), script="anima_train_network")
    assert sizes.lora(work) == 4 * 10 * 100_000 * len(block)


@pytest.mark.parametrize("more", [{"network_args": ["conv_dim=4"]}, {"dim_from_weights": True}])
def test_where_there_is_no_telling_there_is_no_estimate(tmp_path: Path, model: Path, more: dict[str, object]) -> None:
    work = training(tmp_path, model, save_every_n_steps=1, save_state=True, **more)
    assert sizes.lora(work) is None
    assert found(work, 2 * MB) == []


def test_a_disk_that_cannot_take_one_checkpoint_stops_the_start(tmp_path: Path, model: Path) -> None:
    (only,) = found(training(tmp_path, model), 4 * MB)
    assert only.severity == "error"
    assert "4 MB left" in only.message
    # an estimate may be wrong
    (only,) = found(training(tmp_path, model), 6 * MB)
    assert only.severity == "warning"
    assert found(training(tmp_path, model), 11 * MB) == []
    assert found(training(tmp_path, model), 0)[0].severity == "error"


def test_all_that_is_to_come_is_added_up(tmp_path: Path, model: Path) -> None:
    work = training(tmp_path, model, max_train_steps=100, save_every_n_steps=10, save_state=True)
    (only,) = found(work, 400 * MB)
    assert only.severity == "warning"
    assert "about 440 MB" in only.message
    assert "11 LoRAs of 10 MB, 11 states of 30 MB" in (only.hint or "")
    assert found(work, 440 * MB) == []


def test_what_earlier_attempts_left_is_measured_and_is_there_already(tmp_path: Path, model: Path) -> None:
    work = training(tmp_path, model, max_train_steps=100, save_every_n_steps=10, save_state=True)
    sizes_by_name = {
        "it-step00000010.safetensors": 2 * MB,
        "it-step00000010-state/a": 3 * MB,
        "others.safetensors": 9 * MB,
    }
    for name, size in sizes_by_name.items():
        path = work.output.parent / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
    (only,) = found(work, 40 * MB)
    assert "10 LoRAs of 2 MB, 10 states of 3 MB" in (only.hint or "")
    # measured, so there is no doubt
    assert found(work, 4 * MB)[0].severity == "error"
    # and what will be written over is there already
    assert (
        found(training(tmp_path, model, max_train_steps=10, save_every_n_steps=5), int(1.5 * MB))[0].severity == "error"
    )
    path = work.output
    path.write_bytes(b"")
    last = training(tmp_path, model, max_train_steps=10)
    assert found(last, int(1.5 * MB)) == []
    # unless it is another run's, which is put aside
    assert found(replace(last, keeps=True), int(1.5 * MB))[0].severity == "error"


def test_a_state_that_a_run_began_from_is_not_counted_as_one_that_will_be_replaced(tmp_path: Path, model: Path) -> None:
    work = training(tmp_path, model, max_train_steps=20, save_every_n_steps=10, save_state=True)
    state = work.output.parent / "it-step00000010-state"
    write(state, {"model.safetensors": "x" * 3 * MB})
    manifest.write(state, step=10, made_by={})
    assert "2 states of 3 MB" in (found(work, 30 * MB)[0].hint or "")
    manifest.keep(state)
    assert "3 states of 3 MB" in (found(work, 30 * MB)[0].hint or "")


def test_caches_to_come_are_added_up_and_those_that_are_there_are_not(tmp_path: Path, model: Path) -> None:
    flags = {"script": "sdxl_train_network", "cache_latents_to_disk": True, "cache_text_encoder_outputs_to_disk": True}
    work = training(tmp_path, model, **flags)
    (only,) = found(work, 11 * MB)
    assert "2 cached latents of 65.5 kB, 2 cached text encoder outputs of 631 kB" in (only.hint or "")
    images = frozenset(str(tmp_path / "images" / name) for name in ("a.png", "b.png"))
    write(tmp_path, {"images/a_te_outputs.npz": "", "images/b_te_outputs.npz": ""})
    assert disk.problems(work, listing.subsets(work), images, lambda _folder: 11 * MB) == []


@pytest.mark.parametrize(
    ("flags", "loras", "states"),
    [
        ({}, 1, 0),
        ({"save_every_n_steps": 10}, 11, 0),
        ({"save_every_n_steps": 10, "save_last_n_steps": 20}, 5, 0),
        ({"save_every_n_steps": 10, "save_state": True, "save_last_n_steps_state": 10}, 11, 4),
        ({"save_every_n_epochs": 1}, 50, 0),
        ({"save_every_n_epochs": 1, "save_last_n_epochs": 2, "save_state": True}, 4, 4),
        ({"save_n_epoch_ratio": 5}, 5, 0),
        ({"max_train_epochs": 3, "save_every_n_epochs": 1}, 3, 0),
        ({"save_state_on_train_end": True}, 1, 1),
    ],
)
def test_saves_are_counted_as_upstream_makes_and_removes_them(
    tmp_path: Path, model: Path, flags: dict[str, object], loras: int, states: int
) -> None:
    """A hundred steps, two in each epoch."""
    work = training(tmp_path, model, max_train_steps=100, **flags)
    assert disk.saves(work, listing.subsets(work)) == (loras, states)


def test_a_disk_that_does_not_say_what_is_left_is_no_reason_to_stop(tmp_path: Path, model: Path) -> None:
    def free(_folder: Path) -> int:
        raise PermissionError(13, "Permission denied")

    work = training(tmp_path, model)
    assert disk.problems(work, listing.subsets(work), frozenset(), free) == []
