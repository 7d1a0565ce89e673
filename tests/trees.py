"""Folders as data, to compare before and after."""

from __future__ import annotations

from pathlib import Path


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every file below a folder with its size and time of change."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def kept(checkout: Path) -> list[tuple[str, int, int]]:
    """The files in a checkout's `.lora`, without the cache, to which tests that run at the same time write as well."""
    return [file for file in listing(checkout / ".lora") if not file[0].startswith("cache/")]
