from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_training import workspace
from lora_training.app import recording
from lora_training.patching import lockfile
from tests.cli.cats import Cats
from tests.helpers import ROOT, Ran, lora, write
from tests.trees import kept, listing

pytest.importorskip("torch")
SMOKE = ROOT / "configs" / "smoke.toml"


@dataclass(frozen=True)
class Trained:
    ran: Ran
    folder: Path

    @property
    def lora(self) -> Path:
        return self.folder / "smoke.safetensors"


@pytest.fixture(scope="module")
def trained(sd_scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The smoke run on the real upstream, once for all tests here, where a cluster has set variables for its ranks."""
    folder = tmp_path_factory.mktemp("an output")
    cluster = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    sets = ("--set", f"output_dir={folder}")
    return Trained(lora("train", SMOKE, *sets, cwd=ROOT, env={**os.environ, **cluster}), folder)


@pytest.mark.upstream
def test_the_smoke_run_ends_with_a_lora_and_says_what_made_it(trained: Trained) -> None:
    assert trained.ran.code == 0, trained.ran.err
    said = dict(line.split(maxsplit=1) for line in trained.ran.out.splitlines())
    assert said["trained"] == str(trained.lora)
    assert said["steps"] == "20"
    assert "6721028c79ee85a78b3a06dfd8954dae310a1cce" in said["upstream"]
    assert "transformers/0001-re-export-pytorch-utils" in said["patches"]
    assert "tiny-unet" in said["runtime"].split(", ")


@pytest.mark.upstream
def test_it_saved_on_the_way_and_kept_its_log(trained: Trained) -> None:
    assert (trained.folder / "smoke-step00000010.safetensors").exists()
    log = (trained.folder / "smoke.run" / "attempt-1.log").read_text(encoding="utf-8")
    assert "LoRA+ UNet LR Ratio: 4" in log
    assert "20/20" in log


@pytest.mark.upstream
def test_the_lora_loads_into_a_pipeline_and_changes_its_picture(trained: Trained) -> None:
    import numpy as np
    import torch
    from diffusers import StableDiffusionPipeline

    model = workspace.Workspace(ROOT).cache / "smoke" / "model"
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)

    def picture() -> np.ndarray:
        seed = torch.Generator().manual_seed(0)
        drawn = pipeline(
            "smoke, a red circle", height=64, width=64, num_inference_steps=3, generator=seed, output_type="np"
        )
        return np.asarray(drawn.images)

    before = picture()
    assert np.array_equal(before, picture())
    pipeline.load_lora_weights(trained.lora)
    after = picture()
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-4


@pytest.mark.upstream
def test_the_up_matrices_learned_faster(trained: Trained, tmp_path: Path) -> None:
    """LoRA+ at work: with a ratio of 1 the same run moves the up matrices less."""
    from safetensors.torch import load_file

    plain = lora(
        "train", SMOKE, "--set", f"output_dir={tmp_path}", "--set", "network_args.loraplus_lr_ratio=1", cwd=ROOT
    )
    assert plain.code == 0, plain.err

    def moved(path: Path) -> float:
        return sum(
            float(value.abs().sum()) for name, value in load_file(path).items() if name.endswith("lora_up.weight")
        )

    assert moved(trained.lora) > 1.5 * moved(tmp_path / "smoke.safetensors")


@pytest.mark.upstream
def test_a_dry_run_prints_the_very_command_and_writes_nothing(trained: Trained) -> None:
    before = listing(trained.folder), kept(ROOT), listing(ROOT / "configs")
    ran = lora("train", SMOKE, "--set", f"output_dir={trained.folder}", "--dry-run", cwd=ROOT)
    assert ran.code == 0
    assert ran.out == (trained.folder / "smoke.run" / "command.sh").read_text(encoding="utf-8")
    assert len(ran.out.splitlines()) == 1
    assert (listing(trained.folder), kept(ROOT), listing(ROOT / "configs")) == before
    assert "--learning_rate" in shlex.split(ran.out)


@pytest.mark.upstream
def test_a_training_that_fails_is_exit_6_with_the_end_of_its_log(sd_scripts: Path, tmp_path: Path) -> None:
    # upstream finds out only when it builds the network
    ran = lora("train", SMOKE, "--set", f"output_dir={tmp_path}", "--set", "network_module=nothing.here", cwd=ROOT)
    assert ran.code == 6
    assert "No module named 'nothing'" in ran.err
    assert "attempt-1.log" in ran.err


DYING = """
from networks.lora import *
from networks import lora
def create_network(*args, **kwargs):
    network = lora.create_network(*args, **kwargs)
    steps = [1, 2]
    network.on_step_start = lambda *_, **__: steps.pop()
    return network
"""


@pytest.mark.upstream
def test_the_same_exception_at_the_same_step_ends_the_training(
    sd_scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"dying.py": DYING})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ran = lora("train", SMOKE, *given(tmp_path / "out", "network_module=dying"), cwd=ROOT)
    assert ran.code == 6
    assert "error: training died of IndexError: pop from empty list, twice at the same step (2)\n" in ran.err
    assert ran.err.count("starting again") == 1


@pytest.mark.upstream
def test_a_full_disk_is_one_error_with_exit_code_6_and_the_run_goes_on_when_there_is_room(
    sd_scripts: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("3m")
    sets = (f"output_dir={disk}", "max_train_steps=3", "save_every_n_steps=1", "save_state=true")
    command = ("train", SMOKE, *(word for setting in sets for word in ("--set", setting)))
    ran = lora(*command, cwd=ROOT)
    assert ran.code == 6
    assert "error: the disk is full" in ran.err
    subprocess.run(["mount", "-o", "remount,size=30m", str(disk)], check=True)
    more = lora(*command, cwd=ROOT)
    assert more.code == 0, more.err
    assert "continuing from step 1" in more.err


@pytest.mark.upstream
def test_the_command_in_a_hint_can_be_pasted_whatever_the_file_is_called(sd_scripts: Path, tmp_path: Path) -> None:
    file = tmp_path / "my cats.toml"
    file.write_text(SMOKE.read_text(encoding="utf-8").replace("seed = 1", 'seed = "x"'), encoding="utf-8")
    ran = lora("train", file, cwd=ROOT)
    assert ran.code == 3
    command = ran.err.split("`")[-2]
    assert shlex.split(command) == ["lora", "config", "check", str(file)]


@pytest.mark.upstream
def test_a_complete_run_says_what_is_next_in_the_container_image_alone(trained: Trained) -> None:
    again = ("train", SMOKE, "--set", f"output_dir={trained.folder}")
    inside = lora(*again, cwd=ROOT, env=os.environ | {"LORA_IMAGE": "an-image"})
    assert "an-image train /data/my.toml" in inside.out
    assert "docker" not in trained.ran.out


@pytest.mark.upstream
def test_an_edit_that_is_no_patch_of_ours_stops_the_start(
    sd_scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    for name in ("patches", "third_party"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    shutil.copy(ROOT / ".gitmodules", checkout)
    (checkout / "lora_training").mkdir()
    monkeypatch.setenv("LORA_HOME", str(checkout))
    monkeypatch.setenv("LORA_CACHE", str(workspace.Workspace(ROOT).state / "cache"))
    dry = ["train", SMOKE, "--set", f"output_dir={tmp_path / 'out'}", "--dry-run"]
    assert "warning" not in lora(*dry, cwd=ROOT).err
    without = lora(*dry, "--set", "runtime.progress=false", cwd=ROOT)
    assert (without.code, "warning: it trains without the runtime patch progress; " in without.err) == (0, True)
    with (checkout / "third_party" / "sd-scripts" / "library" / "utils.py").open("a") as edited:
        edited.write("# an edit\n")
    ran = lora(*dry, cwd=ROOT)
    assert ran.code == 5
    assert "library/utils.py" in ran.err


@pytest.mark.upstream
def test_a_misspelt_key_is_exit_3_before_anything_starts(sd_scripts: Path, tmp_path: Path) -> None:
    ran = lora("train", SMOKE, "--set", f"output_dir={tmp_path}", "--set", "learning_rat=1", cwd=ROOT)
    assert ran.code == 3
    assert "learning_rate" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.upstream
def test_stopped_and_killed_it_ends_with_the_bits_of_a_run_that_was_not(sd_scripts: Path, tmp_path: Path) -> None:
    """SIGTERM first, then SIGKILL to `lora` itself, then the same command to its end."""
    sets = ("max_train_steps=60", "save_every_n_steps=5", "save_state=true", "gradient_accumulation_steps=3")
    whole = start(tmp_path / "whole", *sets)
    assert whole.wait() == 0
    output = tmp_path / "interrupted"

    stopped = start(output, *sets, resume="never")
    until_a_step(stopped)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 143
    assert "state saved; the same command with `--resume auto` goes on" in said(stopped)
    assert running_on(output) == ""

    killed = start(output, *sets)
    until_a_step(killed)
    killed.kill()
    killed.wait()
    until = time.monotonic() + 5
    while running_on(output) and time.monotonic() < until:
        time.sleep(0.05)
    assert running_on(output) == ""

    rehearsed = lora("train", SMOKE, *given(output, *sets), "--dry-run", cwd=ROOT)
    assert "continuing from step" in rehearsed.err
    assert rehearsed.out.rstrip().endswith("-state --skip_until_initial_step")

    last = start(output, *sets)
    assert last.wait() == 0
    assert "continuing from step" in said(last)
    names = {path.name for path in (tmp_path / "whole").glob("*.safetensors")}
    assert len(names) == 13
    assert {path.name for path in output.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    for name in names:
        assert weights(tmp_path / "whole" / name) == weights(output / name), name


@pytest.mark.upstream
def test_a_complete_run_says_so_and_trains_nothing(trained: Trained) -> None:
    before = trained.lora.stat().st_mtime_ns
    again = lora("train", SMOKE, "--set", f"output_dir={trained.folder}", cwd=ROOT)
    assert again.code == 0
    assert "this run is complete" in again.err
    assert again.out == trained.ran.out
    assert trained.lora.stat().st_mtime_ns == before


@pytest.mark.upstream
def test_the_lora_says_what_made_it(trained: Trained) -> None:
    from safetensors import safe_open

    with safe_open(trained.lora, "np") as file:
        found = file.metadata()
    assert found["lora_upstream"] == "6721028c79ee85a78b3a06dfd8954dae310a1cce"
    assert found["lora_patches"] == lockfile.digest(lockfile.read(ROOT / "patches"))


@pytest.mark.upstream
def test_an_unfinished_run_of_another_config_is_not_gone_on_with(sd_scripts: Path, tmp_path: Path) -> None:
    cats = Cats(tmp_path)
    state = cats.stopped()
    other = cats.train("max_train_steps=100000", "learning_rate=0.5")
    assert other.code == 3
    assert "another config" in other.err
    assert f"--resume {state}" in other.err
    assert "--resume never" in other.err


@pytest.mark.upstream
def test_what_the_smoke_run_finds_under_its_name_is_put_aside_unasked(sd_scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "smoke.safetensors").write_bytes(b"of somebody else")
    ran = lora("train", SMOKE, *given(tmp_path, "max_train_steps=2", "save_every_n_steps=2"), cwd=ROOT)
    assert ran.code == 0, ran.err
    assert f"are kept as {tmp_path / 'smoke.1'}" in ran.err
    assert (tmp_path / "smoke.1.safetensors").read_bytes() == b"of somebody else"


def given(output: Path, *sets: str) -> list[str]:
    return [word for item in (f"output_dir={output}", *sets) for word in ("--set", item)]


def start(output: Path, *sets: str, resume: str = "auto") -> subprocess.Popen[str]:
    words = ["train", str(SMOKE), "--verbose", *given(output, *sets), "--resume", resume]
    argv = [sys.executable, "-m", "lora_training", *words]
    with output.with_name(f"{output.name}.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log, text=True)


def until_a_step(running: subprocess.Popen[str]) -> None:
    """Wait until the run reports a step of its own; bounded by the run's own end."""
    output = Path(next(word for word in running.args if "output_dir=" in word).partition("=")[2])  # type: ignore[union-attr]
    events = output / "smoke.run" / "events.jsonl"
    begun = events.stat().st_size if events.exists() else 0
    while running.poll() is None:
        if events.exists() and b'"step"' in events.read_bytes()[begun:]:
            return
        # a loop without a pause takes a core from the training
        time.sleep(0.05)
    pytest.fail("the run ended before its first step")


def said(running: subprocess.Popen[str]) -> str:
    output = Path(next(word for word in running.args if "output_dir=" in word).partition("=")[2])  # type: ignore[union-attr]
    return output.with_name(f"{output.name}.log").read_text(encoding="utf-8")


def running_on(output: Path) -> str:
    return subprocess.run(["pgrep", "-f", f"{output}"], capture_output=True, text=True, check=False).stdout


def weights(path: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(path).items()}


@pytest.mark.upstream
def test_the_blip_module_imports_with_the_patch_and_not_without(sd_scripts: Path, tmp_path: Path) -> None:
    assert blip(sd_scripts, None).returncode == 0
    site = workspace.Workspace(ROOT).upstream("transformers").path / "src" / "transformers" / "modeling_utils.py"
    pristine = site.with_name("modeling_utils.py.orig")
    without = blip(sd_scripts, pristine)
    assert without.returncode != 0
    assert "cannot import name 'apply_chunking_to_forward'" in without.stderr


BLIP = """
import importlib.machinery, importlib.util, sys
if len(sys.argv) > 1:
    # the pristine file in the patched one's place, for this process alone
    spec = importlib.util.spec_from_loader("transformers.modeling_utils", importlib.machinery.SourceFileLoader(
        "transformers.modeling_utils", sys.argv[1]))
    import transformers
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
import finetune.blip.med
names = "Conv1D apply_chunking_to_forward find_pruneable_heads_and_indices id_tensor_storage prune_conv1d_layer"
import transformers.modeling_utils as found
for name in [*names.split(), "prune_layer", "prune_linear_layer"]:
    getattr(found, name)
"""


def blip(tree: Path, pristine: Path | None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", BLIP, *([str(pristine)] if pristine else [])]
    return subprocess.run(argv, cwd=tree, capture_output=True, text=True, check=False)


def test_without_upstream_the_smoke_run_falls_back_to_the_miniature_loudly(no_upstream: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "patches" / lockfile.LOCK, no_upstream / "patches")
    ran = lora("train", SMOKE, "--set", f"output_dir={tmp_path}", cwd=no_upstream)
    assert ran.code == 0, ran.err
    assert "MINIATURE" in ran.err
    assert "NOT sd-scripts" in ran.out
    assert (tmp_path / "smoke.safetensors").exists()
    # the record has neither a commit nor patches of what did not train
    assert recording.read(tmp_path / "smoke.run", recording.ENVIRONMENT)["patches"] == {}
    for verb in (["list"], ["show", "smoke"], ["compare", "smoke", "smoke"]):
        assert "NOT sd-scripts" in lora("runs", *verb, cwd=no_upstream).out
    sets = ("--set", f"output_dir={tmp_path}", "--set", "output_name=again")
    again = lora("train", SMOKE, *sets, "--resume", tmp_path / "smoke-state", cwd=no_upstream)
    assert (again.code, "error: the miniature resumes no state" in again.err) == (3, True), again.err


def test_without_upstream_any_other_config_stops_with_exit_4(no_upstream: Path, tmp_path: Path) -> None:
    text = SMOKE.read_text(encoding="utf-8").replace('assets = "smoke"', "retries = 1")
    write(tmp_path, {"mine.toml": text})
    ran = lora("train", tmp_path / "mine.toml", cwd=no_upstream)
    assert ran.code == 4
    assert "lora upstream sync" in ran.err
    assert not (tmp_path.parent / "output").exists()


def test_the_command_line_starts_without_heavy_imports() -> None:
    heavy = ("torch", "git", "rich", "numpy", "docker")
    code = f"import sys, lora_training.cli.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
