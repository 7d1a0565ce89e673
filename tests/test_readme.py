"""Every command in the README and in docs exists, with the options it is given there."""

from __future__ import annotations

import re
import shlex
import subprocess

import click
import pytest

from lora_training.cli.app import lora
from tests.helpers import ROOT

TEXT = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
LINES = [
    line.split("#")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("lora ")])
def test_a_lora_command_of_the_readme_exists(line: str) -> None:
    context, command, words = click.Context(lora), lora, shlex.split(line)[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    if command.context_settings.get("ignore_unknown_options"):
        return  # the arguments of one of upstream's scripts
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_a_make_target_of_the_readme_exists(line: str) -> None:
    subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, check=True, capture_output=True)


def test_there_are_commands_to_look_at() -> None:
    assert len(LINES) > 10


def test_a_file_that_a_contributor_is_sent_to_exists() -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("docs/architecture.md", "CONTRIBUTING.md"))
    named = set(re.findall(r"\b(?:lora_training|tests|benchmarks)/[\w/]*(?:\.py)?", text))
    assert len(named) > 20
    assert not [path for path in named if not (ROOT / path).exists()]


def test_a_function_that_the_architecture_names_is_in_its_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"((?:`\w+`,? (?:and )?)+)in\s+`(lora_training/[\w/]+\.py)`", re.sub(r"\s+", " ", text))
    assert len(named) > 4
    for functions, path in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert [name for name in re.findall(r"\w+", functions.replace("and", "")) if f"def {name}(" not in source] == []


def test_every_package_and_shared_module_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = [path.stem if path.is_file() else f"{path.name}/" for path in (ROOT / "lora_training").glob("[a-z]*")]
    assert "families" in names
    assert [name for name in names if f"`{name}`" not in text] == []
