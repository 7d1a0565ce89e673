"""Read captions by upstream's rules, with what upstream would read wrongly or not at all.

The rules are those of `read_caption` in upstream's `library/dreambooth_dataset.py` and of its `finetuning_dataset.py`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from lora_training import files
from lora_training.preflight import listing
from lora_training.preflight.listing import Subset

DEFAULT = ".caption"  # upstream's `caption_extension`
_OTHERS = (".txt", ".caption", ".tags", ".cap")
_FACE_PARTS = 5  # of a name such as NAME_X_Y_WIDTH_HEIGHT
Fault = Literal["missing", "unread", "empty", "blank", "encoding", "mark", "lines", "unreadable"]


@dataclass(frozen=True)
class Caption:
    """A caption as upstream trains on it, and its fault. `detail` names the file of the fault."""

    text: str
    fault: Fault | None = None
    detail: str = ""


def read(subset: Subset) -> Iterator[tuple[str, Caption]]:
    """Yield each image of a subset with its caption."""
    if subset.is_finetuning:
        yield from _listed(subset)
        return
    extension = str(subset.options.get("caption_extension") or DEFAULT)
    words = subset.options.get("class_tokens")
    for path in subset.images:
        yield path, _beside(path, extension, words, many=bool(subset.options.get("enable_wildcard")))


def _beside(path: str, extension: str, words: str | None, *, many: bool) -> Caption:
    file = next(filter(os.path.isfile, _files(path, extension)), None)
    if file:
        return _parsed(file, many=many)
    base = os.path.splitext(path)[0]
    other = next((base + each for each in _OTHERS if os.path.isfile(base + each)), None)
    if other:
        return Caption(words or "", "unread", other)
    return Caption(words, None) if words else Caption("", "missing", base + extension)


def _files(path: str, extension: str) -> tuple[str, str]:
    """Return the caption files of an image: that of its name, and that of the picture from which a face was cut."""
    base = os.path.splitext(path)[0]
    parts = base.split("_")
    face = "_".join(parts[: 1 - _FACE_PARTS]) if len(parts) >= _FACE_PARTS else base
    return base + extension, face + extension


def alone(subset: Subset) -> list[str]:
    """Return the caption files in a subset's folder that belong to none of its images."""
    extension = str(subset.options.get("caption_extension") or DEFAULT)
    used = {file for path in subset.images for file in _files(path, extension)}
    found = (os.path.join(subset.name, name) for name in files.names(subset.name) if name.endswith(extension))
    return [] if subset.is_finetuning else [path for path in found if path not in used]


def _parsed(file: str, *, many: bool) -> Caption:
    try:
        data = files.read_any(file)
        text = data.decode("utf-8")
    except OSError as exc:
        return Caption("", "unreadable", f"{file}: {exc.strerror}")
    except UnicodeDecodeError:
        return Caption(data.decode("latin-1").strip(), "encoding", file)
    lines = text.splitlines()
    whole = [line.strip() for line in lines if line.strip()]
    caption = "\n".join(whole) if many else (lines or [""])[0].strip()
    if not whole:
        return Caption("", "blank" if text else "empty", file)
    if text.startswith("\ufeff"):
        return Caption(caption, "mark", file)
    return Caption(caption, None if many or len(whole) == 1 else "lines", file)


def _listed(subset: Subset) -> Iterator[tuple[str, Caption]]:
    separator = str(subset.options.get("caption_separator") or ",")
    for path, entry in zip(subset.images, listing.entries(subset.name).values(), strict=False):
        told = entry if isinstance(entry, dict) else {}
        parts = [str(told[key]) for key in ("caption", "tags") if told.get(key)]
        yield path, Caption(separator.join(parts), None if parts else "missing", subset.name)


def tags(text: str, separator: str = ",") -> list[str]:
    """Return the tags of a caption."""
    return [tag.strip() for tag in text.replace("\n", separator).split(separator) if tag.strip()]


def frequency(texts: Iterable[str], separator: str = ",") -> Counter[str]:
    """Return how many captions have each tag."""
    return Counter(tag for text in texts for tag in dict.fromkeys(tags(text, separator)))


def extension_of(folder: str) -> str:
    """Return the extension that most captions in a folder have; upstream's default if there are none."""
    endings = Counter(os.path.splitext(name)[1] for name in files.names(folder))
    return max(_OTHERS, key=lambda ending: endings[ending]) if any(map(endings.get, _OTHERS)) else DEFAULT
