"""Files that a configuration may overwrite, and what the check reports of its network use and secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.config.helpers import images
from tests.helpers import ROOT, Ran, lora

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
HIDDEN = "never-to-be-seen"
CONFIG = """script = "train_network"
pretrained_model_name_or_path = "org/model"
network_module = "networks.lora"
output_dir = "out"
logging_dir = "logs"
max_train_steps = 1
{more}
[[datasets]]
resolution = 64
[[datasets.subsets]]
image_dir = "images"
"""


@pytest.fixture(autouse=True)
def _real(sd_scripts: Path) -> None:
    """Every flag here is one of the real upstream's."""


def configured(folder: Path, *more: str) -> Path:
    images(folder / "images")
    path = folder / "cats.toml"
    path.write_text(CONFIG.format(more="\n".join(more)), encoding="utf-8")
    return path


def check(folder: Path, *more: str) -> Ran:
    return lora("config", "check", configured(folder, *more), "--quick", cwd=ROOT)


@pytest.mark.parametrize("name", ["precious.log", "out/precious.txt", "out/link.log", "out/folder.log", "/dev/null"])
def test_a_log_is_not_written_over_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / "folder.log").mkdir(parents=True)
    for file in ("precious.log", "out/precious.txt"):
        (tmp_path / file).write_text("precious", encoding="utf-8")
    (tmp_path / "out" / "link.log").symlink_to(tmp_path / "precious.log")
    found = check(tmp_path, f'console_log_file = "{name}"')
    assert found.code == 1
    assert "`console_log_file` would be written over" in found.out
    started = lora("train", tmp_path / "cats.toml", cwd=ROOT)
    assert (started.code, started.err.count("error: ")) == (3, 1)
    assert (tmp_path / "precious.log").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("name", ["new.txt", "out/train.log", "logs/deep/train.log"])
def test_a_new_log_and_a_log_of_the_run_are_right(tmp_path: Path, name: str) -> None:
    if name != "new.txt":
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("of the first attempt", encoding="utf-8")
    found = check(tmp_path, f'console_log_file = "{name}"')
    assert found.code == 0, found.out


@pytest.mark.parametrize("key", ["lr_scheduler_type", "optimizer_type"])
def test_a_function_is_not_called_in_place_of_a_class(tmp_path: Path, key: str) -> None:
    """`torch.save(optimizer, f=...)` would write over any file."""
    found = check(tmp_path, f'{key} = "torch.save"', "lr_scheduler_args = [\"f='precious'\"]")
    assert found.code == 1
    assert f"`{key}`: `torch.save` is no class" in found.out


def test_a_path_in_the_hubs_repository_is_no_local_path(tmp_path: Path) -> None:
    sent = ('huggingface_repo_id = "me/cats"', 'huggingface_path_in_repo = "loras/cats"')
    found = check(tmp_path, *sent)
    assert found.code == 0, found.out
    shown = lora("config", "show", tmp_path / "cats.toml", "--as", "argv", cwd=ROOT).out.splitlines()
    assert shown[shown.index("--huggingface_path_in_repo") + 1] == "loras/cats"


def test_what_is_sent_and_fetched_is_one_line(tmp_path: Path) -> None:
    sent = ('huggingface_repo_id = "me/cats"', 'huggingface_repo_visibility = "public"', "async_upload = true")
    more = ('metadata_thumbnail = "cat.png"', "[run]", "allow_pickle = true")
    found = check(tmp_path, *sent, *more)
    (line,) = [line for line in found.out.splitlines() if "this configuration" in line]
    for part in (
        "sends every LoRA to me/cats on the Hugging Face hub (public",
        "puts the whole of cat.png into the LoRA",
        "fetches org/model from the Hugging Face hub",
        "lets pickled weights run code",
    ):
        assert part in line
    answer = lora("config", "check", tmp_path / "cats.toml", "--quick", "--json", cwd=ROOT)
    assert json.loads(answer.out)["files"][0]["exchanged"] in line


@pytest.mark.parametrize(
    "command",
    [
        ("config", "check", "--quick"),
        *(("config", "show", "--as", form, "--origin") for form in ("toml", "argv", "json")),
        ("config", "show", "--as", "sh"),
        ("train", "--dry-run"),
        ("train", "--dry-run", "--docker"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("where", ["file", "set", "environment"])
def test_a_token_is_never_printed(tmp_path: Path, where: str, command: tuple[str, ...]) -> None:
    tokens = (f'huggingface_token = "{HIDDEN}"', f'wandb_api_key = "{HIDDEN}"') if where == "file" else ()
    path = configured(tmp_path, *tokens)
    given = ("--set", f"huggingface-token={HIDDEN}", "--set", f"x.wandb_api_key={HIDDEN}") if where == "set" else ()
    env = {**os.environ, **({"LORA_HUGGINGFACE_TOKEN": HIDDEN} if where == "environment" else {})}
    ran = lora(command[0], *command[1:2], path, *command[2:], *given, cwd=ROOT, env=env)
    assert ran.code == 0, ran.err
    assert HIDDEN not in ran.out + ran.err


def test_a_token_is_recorded_nowhere(tmp_path: Path) -> None:
    sets = ("--set", f"output_dir={tmp_path}", "--set", f"huggingface_token={HIDDEN}", "--set", "max_train_steps=1")
    ran = lora("train", ROOT / "configs" / "smoke.toml", *sets, "--verbose", cwd=ROOT)
    assert ran.code == 0, ran.err
    assert HIDDEN not in ran.out + ran.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and HIDDEN.encode() in path.read_bytes()]


def test_an_imported_token_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f'pretrained_model_name_or_path = "org/model"\nhuggingface_token = "{HIDDEN}"\n', encoding="utf-8")
    ran = lora("config", "import", path, cwd=ROOT)
    assert HIDDEN not in ran.out + ran.err
    assert "HF_TOKEN" in ran.err
