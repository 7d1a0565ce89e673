from __future__ import annotations

import csv
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lora_training.errors import ConfigError
from lora_training.launch.container import Caller, Container, ContainerRun, Engine, Mount, describe, merged

ME = Caller(1000, 1001, (44, 1001))
OUTPUT = Path("/o/cats.safetensors")


def described(engine: Engine | None = None, **changes: Any) -> Container:
    given = {"image": "lora-training", "config": Path("/c/my.toml"), "output": OUTPUT, "mounts": ()}
    return describe(ContainerRun(**{**given, **changes}), ME, engine or Engine())


def at(path: str, *, writable: bool = False) -> Mount:
    return Mount(path, path, writable)


def options(line: str, name: str) -> list[str]:
    words = shlex.split(line)
    return [after for word, after in pairwise(words) if word == name]


def test_the_command_is_the_same_one_as_without_a_container() -> None:
    made = described(sets=("a=1", 'b="x y"'), resume="/s/state", verbose=True)
    expected = ("train", "/c/my.toml", "--set", "a=1", "--set", 'b="x y"', "--resume", "/s/state", "--verbose")
    assert made.command == expected


def test_files_belong_to_the_caller() -> None:
    made = described()
    assert (made.user, made.groups) == ("1000:1001", (44,))


def test_without_root_the_engines_root_is_the_caller() -> None:
    made = described(Engine(rootless=True))
    assert (made.user, made.groups) == ("0:0", ())


def test_an_engine_that_gives_users_other_ids_is_asked_not_to() -> None:
    assert described(Engine(remapped=True)).userns == "host"
    assert described(Engine(remapped=True, rootless=True)).userns is None


def test_selinux_lets_the_container_at_the_mounted_files() -> None:
    assert described(Engine(selinux=True)).security == ("label=disable",)
    assert described().security == ()


def test_gpus_are_asked_for_in_the_engines_own_way() -> None:
    assert described(gpus=True).gpus == "engine"
    assert described(Engine("podman"), gpus=True).gpus == "cdi"
    assert described(Engine("podman")).gpus is None


def test_several_machines_meet_on_the_hosts_network() -> None:
    assert described(machines=2).network == "host"
    assert described().network is None


def test_a_run_has_one_name_and_another_folders_run_another() -> None:
    outputs = (Path(f"/{folder}/a b.safetensors") for folder in ("o", "o", "p"))
    names = [described(output=output).name for output in outputs]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("lora-a-b-")


def test_the_runs_folder_is_on_the_label() -> None:
    assert described().labels == {"lora.run": "/o/cats.run"}


def test_mounts_come_outermost_first_and_once() -> None:
    assert merged([at("/a/b/c"), at("/a-b"), at("/a/b"), at("/a/b")]) == (at("/a/b"), at("/a/b/c"), at("/a-b"))


def test_what_is_read_and_written_is_writable() -> None:
    for order in ([at("/a"), at("/a", writable=True)], [at("/a", writable=True), at("/a")]):
        assert merged(order) == (at("/a", writable=True),)


def test_nothing_is_mounted_within_an_output() -> None:
    """A mount point can be neither replaced nor deleted, and old states are."""
    assert merged([at("/o", writable=True), at("/o/x-state"), at("/o/in/put")]) == (at("/o", writable=True),)


def test_an_output_within_an_input_is_a_mount_of_its_own() -> None:
    mounts = (at("/data"), at("/data/out", writable=True))
    assert merged(mounts) == mounts


def test_what_a_link_puts_within_an_output_is_mounted_all_the_same() -> None:
    linked = Mount("/elsewhere/images", "/o/link/images")
    assert merged([at("/o", writable=True), linked]) == (at("/o", writable=True), linked)


def test_a_name_that_merely_begins_alike_is_not_within() -> None:
    assert len(merged([at("/out", writable=True), at("/output")])) == 2


@pytest.mark.parametrize("path", ["/", "/usr", "/opt", "/opt/lora", "/etc", "/dev/x", "/proc/1", "/sys", "/lib64"])
def test_the_image_keeps_its_own_files(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be mounted"):
        described(mounts=(at(path),))


@pytest.mark.parametrize("path", ["/data", "/home", "/home/me/x", "/mnt", "/opt/lora/configs/smoke.toml", "/cache/x"])
def test_ordinary_folders_are_mounted(path: str) -> None:
    assert described(mounts=(at(path),)).mounts == (at(path),)


def test_a_path_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"/data/\\udcff' is not UTF-8"):
        described(mounts=(at("/data/\udcff"),))


def test_the_line_is_the_container_in_words() -> None:
    made = described(
        mounts=(at("/in"), at("/o", writable=True)), env={"B": "x y", "A": "1"}, gpus=True, machines=2, sets=("k=v",)
    )
    line = made.shell()
    assert line.startswith(f"docker run --rm --name {made.name} --user 1000:1001 --group-add 44 ")
    assert options(line, "--mount") == ["type=bind,source=/in,target=/in,readonly", "type=bind,source=/o,target=/o"]
    assert options(line, "--env") == ["A=1", "B=x y"]
    assert options(line, "--gpus") == ["all"]
    assert options(line, "--network") == ["host"]
    assert options(line, "--label") == ["lora.run=/o/cats.run"]
    assert line.endswith("lora-training train /c/my.toml --set k=v")
    assert "\n" not in line


def test_podmans_line_is_podmans() -> None:
    line = described(Engine("podman", rootless=True, selinux=True), gpus=True).shell()
    assert line.startswith("podman run --rm ")
    assert options(line, "--device") == ["nvidia.com/gpu=all"]
    assert options(line, "--security-opt") == ["label=disable"]
    assert options(line, "--user") == ["0:0"]


def test_a_secret_is_not_in_the_line() -> None:
    line = described(env={"HF_TOKEN": "hf_very", "WANDB_API_KEY": "secret"}).shell()
    assert options(line, "--env") == ["HF_TOKEN", "WANDB_API_KEY"]
    assert "hf_very" not in line
    assert "secret" not in line


@pytest.mark.parametrize("path", ["/a b", "/a:b", "/a,b", '/a"b', "/a'b", "/a$b", "/a=b", "/ä", '/a,b "c"'])
def test_any_path_survives_the_shell_and_the_csv_of_mount(path: str) -> None:
    (option,) = options(described(mounts=(at(path, writable=True),)).shell(), "--mount")
    (fields,) = csv.reader([option], strict=True)
    assert fields == ["type=bind", f"source={path}", f"target={path}"]
