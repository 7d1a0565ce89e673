"""Errors of the operating system as the command line reports them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lora_training import cli, workspace


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


@pytest.mark.upstream
def test_the_shell_completes_the_keys_of_every_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sd_scripts: Path
) -> None:
    monkeypatch.setenv("_LORA_COMPLETE", "bash_complete")
    for words, said in (
        ("lora config explain network_di", "plain,network_dim\n"),
        ("lora train flux.toml --set model_pred", "plain,model_prediction_type=\n"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit):
            cli.run([])
        assert capsys.readouterr().out == said


def test_the_shell_completes_commands_and_presets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_LORA_COMPLETE", "bash_complete")
    for words, said in (("lora conf", "plain,config\n"), ("lora config new --preset sdx", "plain,sdxl\n")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit) as ended:
            cli.run([])
        assert not ended.value.code
        assert capsys.readouterr().out == said
