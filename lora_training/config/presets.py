"""The presets in `configs/`, and writing a configuration from one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePath

from lora_training import families, git_process, nearest
from lora_training.config import document, editing, loading, paths
from lora_training.errors import ConfigError
from lora_training.proc import ProcError

# each answer's question, and the key of the preset that it is written to
_ASKED = {
    "model": ("the base model (a file, a folder or a hub id)", "pretrained_model_name_or_path"),
    "images": ("the folder of images", "image_dir"),
    "output_dir": ("where to write the LoRA", "output_dir"),
}


def names(folder: Path) -> tuple[str, ...]:
    """Return the names of the presets, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def described(folder: Path) -> dict[str, str]:
    """Return the first sentence of the comment at the top of each preset, by name; the user's own files are marked."""
    shipped, found = _shipped(folder), {}
    for name in names(folder):
        try:
            lines = document.text_of(folder / f"{name}.toml").splitlines()
        except document.Unreadable as exc:
            found[name] = exc.message
            continue
        comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
        own = "" if shipped is None or name in shipped else "(your own) "
        found[name] = own + re.split(r"(?<=\.) (?=[A-Z])", comment)[0].rstrip(".")
    return found


def _shipped(folder: Path) -> set[str] | None:
    """Return the names of the presets that git knows, since they are this project's; None without a repository."""
    try:
        listed = git_process.run(folder.parent, "ls-files", "-z", "--", f":(glob){folder.name}/*.toml")
    except ProcError:
        return None
    return {PurePath(name).stem for name in listed.split("\0")}


def find(folder: Path, name: str | None) -> Path:
    """Return the file of a preset. Raises ConfigError, naming the nearest one or all, if there is no such preset."""
    known = names(folder)
    if name is None:
        raise ConfigError("no preset is named", hint=f"give --preset with one of: {', '.join(known)}")
    if name not in known:
        raise ConfigError(
            f"there is no preset `{name}`", hint=nearest.hint(name, known) or f"one of: {', '.join(known)}"
        )
    return folder / f"{name}.toml"


def questions(preset: Path) -> dict[str, tuple[str, str]]:
    """Return what to ask the user for a preset: key -> question and default."""
    texts = list(document.texts(document.read(preset).data))
    defaults = {path[-1]: text for path, text in reversed(texts)}
    return {key: (question, defaults[to]) for key, (question, to) in _ASKED.items() if to in defaults}


def write(
    preset: Path,
    name: Path,
    given: Mapping[str, str | None],
    sets: Sequence[str],
    *,
    force: bool,
    ask: Callable[..., str] | None,
) -> Path:
    """Write a configuration from a preset and return its path, whose name ends in `.toml` and is the LoRA's, too.

    Paths that are not `given` are asked for by `ask` (question, default), or those of the preset. All of them are as
    seen from the current folder, but for a preset's that lead out of its own. Raises ConfigError for a model that is a
    hub id where the script takes a file.
    """
    target = name if name.suffix == ".toml" else name.with_name(f"{name.name}.toml")
    # so that two configurations of one preset are two runs
    answers = {"output_name": os.fsencode(target.stem).decode("utf-8", "replace")}
    for key, (question, default) in questions(preset).items():
        usual = _from_here(preset, default)
        answer = given.get(key) or (ask(question, default=usual) if ask else usual)
        answers[key] = _from_folder(target.parent, answer, _ASKED[key][1])
    _check_model(preset, answers.get("model", ""), target.parent)
    document.write(target, fill(preset, answers, sets, target.parent), force=force)
    return target


def _check_model(preset: Path, model: str, folder: Path) -> None:
    """Refuse a hub id where the script takes a file."""
    script = str(document.read(preset).data.get("script"))
    if families.of(script).pipeline or paths.looks_like_path(model) or paths.exists(folder / model):
        return
    if refused := families.refused_hub_id(script, _ASKED["model"][1], model):
        raise ConfigError(refused, hint=families.GIVE_FILE)


def _from_here(preset: Path, path: str) -> str:
    """Return a preset's path as seen from the current folder."""
    return os.path.relpath(preset.parent / path) if path.startswith("../") else path


def _from_folder(folder: Path, answer: str, key: str) -> str:
    """Return a path typed in the current folder as a path relative to `folder`; a hub id is returned unchanged."""
    is_path = (answer and paths.exists(answer)) or paths.is_path_key(key) or paths.looks_like_path(answer)
    if not is_path or answer.startswith(("~", "${")) or PurePath(answer).is_absolute():
        return answer
    return os.path.relpath(answer, folder)


def fill(preset: Path, answers: Mapping[str, str], sets: Sequence[str], folder: Path | None = None) -> str:
    """Return the preset's text, comments included, with the answers and `--set` items filled in.

    The preset's other paths are written as seen from `folder`, if it is given. Raises ConfigError for a `--set` key
    that the preset does not have, since its place in the text is unknown.
    """
    doc = document.read(preset)
    script = str(doc.data.get("script"))
    edited = editing.ConfigText(str(preset), document.text_of(preset))
    filled = {_ASKED[key][1] if key in _ASKED else key: answer for key, answer in answers.items()}
    for path, text in document.texts(doc.data):
        key = next(part for part in reversed(path) if isinstance(part, str))
        if path[-1] in filled:
            edited.set(path, filled[key], is_text=True)
        elif folder and paths.is_named_path(key, script):
            edited.set(path, _from_folder(folder, _from_here(preset, text), key), is_text=True)
    overridden = loading.override(doc, loading.from_sets(sets))
    for path in overridden.origins:
        if path not in doc.positions:
            hint = "add it to the file once it is written"
            raise ConfigError(f"--set {'.'.join(map(str, path))}: the preset does not have it", hint=hint)
        edited.set(path, document.toml_value(document.value_at(overridden.data, path)), is_text=False)
    return edited.text
