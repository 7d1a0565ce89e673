"""The command line: thin Click commands, one file a group; the only room that prints or exits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Run `lora argv` in this process and return the exit code; errors have been printed to stderr.

    The one place that turns a LoraError into `error:` and `hint:` lines and a code.
    """
    import click

    from lora_training.cli.app import lora
    from lora_training.errors import LoraError

    try:
        code = lora.main(args=list(argv), prog_name="lora", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except LoraError as exc:
        _report(exc.message, exc.hint)
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        _report("interrupted", None)
        return 130
    return code if isinstance(code, int) else 0


def _report(message: str, hint: str | None) -> None:
    import click

    click.echo(f"error: {message}", err=True)
    if hint:
        first, *rest = hint.splitlines()
        click.echo("\n".join([f"hint: {first}", *(f"      {line}" for line in rest)]), err=True)
