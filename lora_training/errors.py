"""The base class of all expected errors. `cli` turns them into two lines and an exit code, in one place."""

from __future__ import annotations


class LoraError(Exception):
    """An error to report to the user: its cause and, where there is one, a hint at what to do.

    Every other exception that reaches `cli` is a bug in this program.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(LoraError):
    """A check (`verify`, `config check`, `docs --check`) failed."""


class UsageError(LoraError):
    """The arguments of a command are wrong, which Click itself could not know."""

    exit_code = 2


class ConfigError(LoraError):
    """The configuration is wrong."""

    exit_code = 3


class UpstreamError(LoraError):
    """An upstream is missing, unreachable or not at its pin."""

    exit_code = 4


class EngineError(LoraError):
    """Training in a container is impossible: no engine, no such image, or no GPU for it."""

    exit_code = 4


class PackageError(LoraError):
    """A command needs a package of an optional extra that is not installed."""

    exit_code = 4


class SlurmError(LoraError):
    """Slurm is missing, or refused a job."""

    exit_code = 4


class PatchError(LoraError):
    """A patch was refused: conflict, drift, unsafe path or malformed. Every one has a hint."""

    exit_code = 5

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)


class TrainingError(LoraError):
    """Training failed, or its output is not valid."""

    exit_code = 6


class MachineLost(TrainingError):
    """Another of the machines that train together gives no sign of life."""


class Interrupted(LoraError):
    """A signal or `lora runs stop` ended the command. The exit code is 128 plus the signal's number, as in a shell."""

    def __init__(
        self, message: str, *, signum: int, hint: str | None = None, by_signal: bool = True, has_state: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signum
        self.by_signal, self.has_state = by_signal, has_state
