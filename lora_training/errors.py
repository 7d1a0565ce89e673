"""The one family of errors. `cli` catches it in one place and turns it into two lines and an exit code."""

from __future__ import annotations


class LoraError(Exception):
    """Something the user must know about: what went wrong and, when we know it, what to do.

    Every other exception that reaches `cli` is a bug of ours.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(LoraError):
    """A check (`verify`, `config check`, `docs --check`) answers no."""

    exit_code = 1


class ConfigError(LoraError):
    """The configuration is wrong."""

    exit_code = 3


class UpstreamError(LoraError):
    """An upstream is missing, unreachable or not at its pin."""

    exit_code = 4


class EngineError(LoraError):
    """What should train is not to be had in a container: no engine, no such image, no GPU for it."""

    exit_code = 4


class PatchError(LoraError):
    """A patch was refused: conflict, drift, unsafe path, malformed."""

    exit_code = 5


class TrainingError(LoraError):
    """Training failed, or its output does not hold up."""

    exit_code = 6


class Interrupted(LoraError):
    """A signal ended the command. The exit code is the shell's: 128 plus the signal's number."""

    def __init__(self, message: str, *, signum: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signum
