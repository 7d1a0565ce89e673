"""Folders as data, to compare before and after."""

from __future__ import annotations

from pathlib import Path


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every file below a folder with its size and time of change."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
