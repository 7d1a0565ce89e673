"""Errors of the operating system as the command line reports them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lora_training import cli, workspace
from tests.helpers import ROOT, lora, write


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x/stop"),
            "error: cannot use /x/stop: Permission denied\nhint: change its permissions, or run this as its owner\n",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"/x"),
            "error: cannot write /x: No space left on device\nhint: make room there, or choose another place\n",
        ),
        (
            OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)),
            "error: File name too long\nhint: give a shorter name\n",
        ),
        (OSError("of its own"), "error: of its own\n"),
    ],
)
def test_it_is_one_sentence_without_a_number(
    exc: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> workspace.Workspace:
        raise exc

    monkeypatch.setattr(workspace, "find", refuse)
    assert cli.run(["runs", "list"]) == 1
    assert capsys.readouterr().err == said


def test_a_misspelt_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["trian", "cats.toml"]) == 2
    assert "No such command 'trian'. Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "check",
            "No such command 'check'. Did you mean `lora config check` or `lora data check`?\nhint: ",
        ),
        ("train", "Missing argument 'FILE'.\nhint: `lora train --help` shows its use\n"),
        (
            "runs rm a --lora --states",
            "--states removes the states alone; leave it out, or --lora\nhint: `lora",
        ),
    ],
)
def test_a_wrong_use_is_an_error_and_a_hint(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.upstream
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--lr", "5e-4"), "`--set learning_rate=5e-4`"),
        (("--max-train-steps=9", "--dry-run"), "`--set max_train_steps=9`"),
        (("--xformers", "--dry-run"), "`--set xformers=...`"),
        (("--nix",), "`lora train --help` shows its use"),
    ],
)
def test_an_option_of_upstream_s_is_answered_with_set(
    words: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str], sd_scripts: Path
) -> None:
    assert cli.run(["train", "cats.toml", *words]) == 2
    said, _, hinted = capsys.readouterr().err.partition("\nhint: ")
    assert said.startswith(f"error: No such option '{words[0].partition('=')[0]}'.")
    assert hint in hinted


@pytest.mark.parametrize("name", ["cats", "cats.tml"])
def test_a_misspelt_file_names_the_one_beside_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cats.toml").touch()
    assert cli.run(["train", str(tmp_path / name)]) == 3
    assert capsys.readouterr().err.endswith("hint: did you mean `cats.toml`?\n")


@pytest.mark.upstream
def test_the_shell_completes_keys_and_tools(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sd_scripts: Path
) -> None:
    monkeypatch.setenv("_LORA_COMPLETE", "bash_complete")
    for words, said in (
        ("lora config explain network_di", "plain,network_dim\n"),
        ("lora train flux.toml --set model_pred", "plain,model_prediction_type=\n"),
        ("lora tool resize_l", "plain,resize_lora\n"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit):
            cli.run([])
        assert capsys.readouterr().out == said


def test_the_shell_completes_commands_presets_and_patches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_LORA_COMPLETE", "bash_complete")
    for words, said in (
        ("lora conf", "plain,config\n"),
        ("lora config new --preset sdx", "plain,sdxl\n"),
        ("lora patch apply sd", "plain,sd-scripts\n"),
        ("lora patch show runtime/em", "plain,runtime/ema\n"),
        ("lora patch show em", "plain,ema\n"),
        ("lora patch remove em", "\n"),
        ("lora patch refresh sd-scripts 0001-", "plain,0001-resume-counts.patch\n"),
        ("lora patch show sd-scripts/0001-", "plain,sd-scripts/0001-resume-counts.patch\n"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit) as ended:
            cli.run([])
        assert not ended.value.code
        assert capsys.readouterr().out == said


def test_a_package_that_is_not_installed_is_named(sd_scripts: Path, tmp_path: Path) -> None:
    write(tmp_path, {"sitecustomize.py": "import sys\nsys.modules |= dict.fromkeys(['jinja2', 'torch'])\n"})
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    page = lora("ui", "--port", "0", cwd=ROOT, env=env)
    assert (page.code, page.err.splitlines()[0]) == (4, "error: this command needs the package jinja2")
    trained = lora("train", "configs/smoke.toml", "--dry-run", cwd=ROOT, env=env)
    assert (trained.code, trained.err.splitlines()[0]) == (4, "error: this environment has no training packages")


def test_a_missing_source_tree_is_exit_code_4_and_how_it_comes(no_upstream: Path, tmp_path: Path) -> None:
    text = (ROOT / "configs" / "smoke.toml").read_text(encoding="utf-8")
    write(tmp_path, {"own.toml": text.replace("[run]\nassets =", "[run]\n# assets =")})
    for words in (("tool", "list"), ("train", tmp_path / "own.toml"), ("patch", "revert", "sd-scripts")):
        ran = lora(*words, cwd=no_upstream)
        assert ran.code == 4, ran.err
        assert "run `lora upstream sync`" in ran.err
    status = lora("patch", "status", cwd=no_upstream)
    assert status.out.startswith("sd-scripts: no known commit is there; `lora upstream sync` brings its pin ")
