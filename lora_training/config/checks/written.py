"""Check for existing files that upstream would overwrite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training.config import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.checks.view import View
    from lora_training.problems import Problem

_LOG, _FOLDERS = "console_log_file", ("output_dir", "logging_dir")


def problems(view: View) -> Iterator[Problem]:
    """Report a `console_log_file` that would replace a file: upstream truncates a file of any kind."""
    path = _resolved(view, _LOG)
    if not path or not os.path.lexists(path) or _is_earlier_log(view, path):
        return
    hint = "name a file that is not there, or a .log below output_dir or logging_dir"
    yield view.problem(f"`{_LOG}` would be written over {path}", _LOG, hint=hint)


def _is_earlier_log(view: View, path: str) -> bool:
    """Whether a path is an existing log file in one of the run's folders, after resolving symbolic links."""
    real = Path(os.path.realpath(path))
    folders = [os.path.realpath(folder) for key in _FOLDERS if (folder := _resolved(view, key))]
    return real.suffix == ".log" and real.is_file() and any(real.is_relative_to(folder) for folder in folders)


def _resolved(view: View, key: str) -> str | None:
    value = view.value(key)
    if not isinstance(value, str) or not value:
        return None
    try:
        return paths.absolute(value, view.config.folder, view.config.variables)
    except paths.UnknownVariable:
        return None  # reported where the value is checked
