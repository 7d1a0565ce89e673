from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_training import manifest, proc
from lora_training.runtime.patches import exact_resume
from lora_training.runtime.run import Run
from tests.runtime.conftest import CACHED, TINY, Trainer, Training, copied_images, dataset, same, smoke_images

pytestmark = pytest.mark.upstream

ON = {"exact-resume": {}}
SAVING = ("save_state=true", "save_every_n_steps=3", "save_every_n_epochs=1", "max_train_steps=14")
# the step to go on from: in the first epoch, at the end of one (4 batches, or 2 steps when accumulated), in the last
CASES = {
    "in the first epoch": (3, ()),
    "in the last epoch": (12, ()),
    "accumulated": (3, ("gradient_accumulation_steps=3",)),
    "with workers": (
        9,
        ("gradient_accumulation_steps=3", "max_data_loader_n_workers=2", "persistent_data_loader_workers=true"),
    ),
    "prodigy": (6, ("optimizer_type=prodigy", "learning_rate=1", "network_args.loraplus_lr_ratio=1")),
    "cosine, cached, dropout": (6, ("lr_scheduler=cosine", "cache_latents=true", "network_dropout=0.2")),
}
# an odd number of batches an epoch, several datasets, captions that depend on the step
SEVERAL = [
    {"resolution": [64, 64], "batch_size": 2, "enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 128,
     "subsets": [{"image_dir": str(smoke_images()), "caption_extension": ".txt", "shuffle_caption": True,
                  "token_warmup_min": 1, "token_warmup_step": 12, "caption_tag_dropout_rate": 0.3}]},
    {"resolution": [64, 64], "batch_size": 3, "enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 128,
     "subsets": [{"image_dir": str(smoke_images()), "caption_extension": ".txt", "num_repeats": 2, "flip_aug": True}]},
]  # fmt: skip


def state(of: Training, step: int) -> Path:
    return of.folder / f"smoke-step{step:08d}-state"


def resume(train: Trainer, folder: Path, path: Path, *sets: str, **more: Any) -> Training:
    more.setdefault("runtime", ON)
    return train(folder, *SAVING, *sets, f"resume={path}", "skip_until_initial_step=true", **more)


def assert_continues(resumed: Training, whole: Training) -> None:
    """Every LoRA that the resumed run wrote is that of the whole run, and it wrote all that were still to come."""
    assert resumed.code == 0, resumed.log[-3000:]
    names = sorted(path.name for path in resumed.folder.glob("*.safetensors"))
    assert "smoke.safetensors" in names
    for name in names:
        assert same(resumed.weights(name), whole.weights(name)), name
        assert counts(resumed.folder / name) == counts(whole.folder / name)
    last = [json.loads((run.folder / "smoke-state" / "train_state.json").read_text()) for run in (resumed, whole)]
    assert last[0] == last[1]


def counts(lora: Path) -> tuple[str, str]:
    from safetensors import safe_open

    with safe_open(lora, "pt") as file:
        found = file.metadata()
    return found["ss_steps"], found["ss_epoch"]


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(train: Trainer, tmp_path: Path, case: str) -> None:
    step, sets = CASES[case]
    whole = train(tmp_path / "whole", *SAVING, *sets, runtime=ON)
    assert whole.code == 0, whole.log[-3000:]
    assert_continues(resume(train, tmp_path / "on", state(whole, step), *sets), whole)


def test_buckets_repeats_and_captions_that_depend_on_the_step_come_back(train: Trainer, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *SAVING, runtime=ON, datasets=SEVERAL)
    assert whole.code == 0, whole.log[-3000:]
    for step in (3, 9):
        assert_continues(resume(train, tmp_path / str(step), state(whole, step), datasets=SEVERAL), whole)


def test_a_state_saved_at_the_end_of_an_epoch_is_gone_on_from(train: Trainer, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *SAVING, runtime=ON)
    assert_continues(resume(train, tmp_path / "on", whole.folder / "smoke-000002-state"), whole)


def test_a_run_that_died_after_its_last_step_only_saves(train: Trainer, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *SAVING, "max_train_steps=12", runtime=ON)
    on = resume(train, tmp_path / "on", state(whole, 12), "max_train_steps=12")
    assert on.code == 0, on.log[-3000:]
    assert same(on.weights(), whole.weights())
    assert counts(on.folder / "smoke.safetensors") == counts(whole.folder / "smoke.safetensors")


def test_without_it_a_resumed_run_sees_other_data_and_noise(train: Trainer, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *SAVING)
    on = resume(train, tmp_path / "on", state(whole, 6), runtime={})
    assert on.code == 0, on.log[-3000:]
    assert not same(on.weights(), whole.weights())


def test_a_state_that_resumes_a_resumed_run_is_as_good(train: Trainer, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *SAVING, runtime=ON)
    second = resume(train, tmp_path / "2", state(whole, 3))
    assert_continues(resume(train, tmp_path / "3", state(second, 9)), whole)


def test_a_run_that_finds_its_latents_cached_ends_with_the_bits_of_the_one_that_cached_them(
    train: Trainer, tmp_path: Path
) -> None:
    images = copied_images(tmp_path / "images")
    runs = [train(tmp_path / name, *CACHED, runtime=ON, datasets=dataset(images)) for name in ("first", "second")]
    assert [run.code for run in runs] == [0, 0], runs[-1].log[-3000:]
    assert same(runs[0].weights(), runs[1].weights())


def test_a_state_says_what_is_in_it_and_what_made_it(train: Trainer, tmp_path: Path) -> None:
    made_by = {"config": "c0ffee"}
    whole = train(tmp_path / "whole", *SAVING, runtime=ON, env={"LORA_IDENTITY": json.dumps(made_by)})
    found = manifest.read(state(whole, 6))
    assert found is not None
    assert (found.step, found.made_by) == (6, made_by)
    assert {"model.safetensors", "optimizer.bin", "scheduler.bin", "lora-resume-0.pt"} <= set(found.files)
    assert manifest.damage(state(whole, 6), found) is None
    assert not list(whole.folder.glob("*.partial"))


def test_upstreams_own_counts_are_wrong_without_the_patch(train: Trainer, tmp_path: Path, sd_scripts: Path) -> None:
    whole = train(tmp_path / "whole", *SAVING)
    pristine = tmp_path / "sd-scripts"
    shutil.copytree(sd_scripts, pristine, ignore=shutil.ignore_patterns(".git", "docs", "tests"))
    (pristine / "train_network.py.orig").replace(pristine / "train_network.py")
    done = {name: _go_on(train, tree, tmp_path / name, state(whole, 9)) for name, tree in _trees(sd_scripts, pristine)}
    assert done["patched"] == "14"
    assert done["pristine"] != "14"


def _trees(patched: Path, pristine: Path) -> list[tuple[str, Path]]:
    return [("patched", patched), ("pristine", pristine)]


def _go_on(train: Trainer, tree: Path, folder: Path, path: Path) -> str:
    """The steps that a LoRA says which that tree went on with from a state, with upstream's own flags alone."""
    folder.mkdir()
    sets = (*SAVING, f"output_dir={folder}", f"resume={path}", "skip_until_initial_step=true")
    spec = train._spec(folder, sets, TINY, None)
    start = proc.module("lora_training.runtime")
    argv = [*start, str(tree / "train_network.py"), *spec.argv[len(start) + 1 :]]
    done = subprocess.run(argv, cwd=tree, env=dict(spec.env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return counts(folder / "smoke.safetensors")[0]


def test_losses_that_cannot_be_written_beside_a_state_do_not_end_the_training(tmp_path: Path) -> None:
    watcher = exact_resume._ExactResume()
    recorder: Any = SimpleNamespace(loss_list=[1.0], loss_total=1.0)
    watcher.run = Run(None, None, (), recorder=recorder)
    watcher.state_saved(tmp_path / "a full disk")
