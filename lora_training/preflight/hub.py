"""Models named by a hub id: left to upstream, unless the hub is offline."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def missing(name: str, environ: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Report a model that is not in the hub's cache while HF_HUB_OFFLINE prevents its download."""
    offline = environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE
    if offline and _NAME.fullmatch(name) and not (_cache(environ) / f"models--{name.replace('/', '--')}").exists():
        message = f"{name} is not in the hub's cache, {_cache(environ)}, and HF_HUB_OFFLINE is set"
        yield message, "fetch it while online, or give a file"


def _cache(environ: Mapping[str, str]) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return Path(os.path.expanduser(environ[name]))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.path.expanduser(home)) / "hub"  # noqa: PTH111 - the same
