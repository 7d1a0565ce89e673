"""`lora patch new`, `refresh` and `revert --keep-edits`: make patches from the local edits in an upstream's tree.

`new` and `refresh` read the patch files as they are, whether locked or not.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lora_training.errors import PatchError
from lora_training.patching import lockfile, planning, relock, series, transaction, tree_state
from lora_training.patching.model import ABSENT, Image, state_of
from lora_training.patching.names import shown
from lora_training.patching.series import SeriesPatch, Target
from lora_training.patching.transaction import Recovered, fs
from lora_training.patching.tree_state import COPY, TreeState
from lora_training.workspace import Workspace

if TYPE_CHECKING:
    from lora_training.repositories import Repo

# The diff must not depend on the user's own settings.
_SETTINGS = (
    *("core.autocrlf=false", "core.safecrlf=false", "core.fileMode=true", "core.symlinks=true", "core.quotePath=true"),
    *("core.attributesFile=/dev/null", "core.excludesFile=/dev/null"),
    *("diff.noprefix=false", "diff.mnemonicPrefix=false", "diff.algorithm=myers", "diff.context=3"),
)
# Without renames, which quilt and older versions of patch do not support.
_DIFF = ("--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames")


@dataclass(frozen=True)
class Written:
    """A patch file that was written, the files whose edits it holds, and the interrupted command completed first.

    `unfilled` has the fields of its header that have no value yet.
    """

    path: Path
    files: tuple[str, ...]
    unfilled: list[str]
    recovered: Recovered | None = None


@dataclass(frozen=True)
class _Work:
    """The patch files, the files as they are at every step of the series and now, and those that were edited."""

    drafts: tuple[SeriesPatch, ...]
    steps: list[Image]
    now: Image
    edited: list[str]


def new(workspace: Workspace, target: Target, title: str, files: Iterable[str] = ()) -> Written:
    """Add a patch to the end of a series: the edits in the tree and those `files`, or an empty patch without edits.

    The header is a template; until it is filled in, `lora patch lock` refuses the patch.
    Raises PatchError unless all patches of the series are applied.
    """
    root = transaction.root_of(workspace)
    with transaction.exclusive(root) as recovered:
        work = _work(workspace, target, files)
        numbers = [int(match[0]) for draft in work.drafts if (match := re.match(r"\d+", draft.name))]
        path = target.patches / f"{max(numbers, default=0) + 1:04d}-{_slug(title)}.patch"
        if path.exists():
            raise PatchError(f"{path} is there already", hint="choose another title")
        fields = series.header_template(
            description=title, upstream_version=f"{target.name} {target.pin}", last_update=today()
        )
        listed = target.patches / series.SERIES
        text = listed.read_text(encoding="utf-8") if listed.exists() else ""
        gap = "" if text.endswith("\n") or not text else "\n"
        contents = {
            path: series.render_header(fields) + diff(work.steps[-1], work.now, work.edited),
            listed: f"{text}{gap}{path.name}\n".encode(),
        }
        transaction.run(root, "new", [transaction.file_write(root, *item) for item in contents.items()])
    return Written(path, tuple(work.edited), series.unfilled(fields), recovered)


def refresh(workspace: Workspace, target: Target, name: str | None = None, files: Iterable[str] = ()) -> Written:
    """Add the edits in the tree and those `files` to the patch `name`, by default the last one.

    Raises PatchError when a later patch touches the same files, and when there are no edits.
    """
    root = transaction.root_of(workspace)
    with transaction.exclusive(root) as recovered:
        work = _work(workspace, target, files)
        at = _position(target, work.drafts, name)
        draft = work.drafts[at]
        if not work.edited:
            raise PatchError(f"{target.name} has no edits to take in", hint="edit its files first")
        paths = list(dict.fromkeys([*draft.patch.paths, *work.edited]))
        for later in reversed(work.drafts[at + 1 :]):
            if shared := set(later.patch.paths).intersection(paths):
                raise PatchError(
                    f"{draft.name} cannot take the edits: "
                    f"{later.name} comes later and touches {shown(min(shared))} too",
                    hint=f"add them to that one: `lora patch refresh {target.name} {later.name}`, "
                    f"or make a patch of their own: `lora patch new {target.name} TITLE`",
                )
        path = target.patches / draft.name
        fields = {**draft.fields, "Last-Update": today()}
        data = series.render_header(fields) + diff(work.steps[at], work.now, paths)
        transaction.run(root, "refresh", [transaction.file_write(root, path, data)])
    return Written(path, tuple(work.edited), series.unfilled(fields), recovered)


def _work(workspace: Workspace, target: Target, files: Iterable[str]) -> _Work:
    series.check_at_pin(target)
    drafts = series.read_drafts(target.patches)
    changed = (path for path in (*target.changed(), *files) if not path.endswith(COPY))
    paths = list(dict.fromkeys([*(path for draft in drafts for path in draft.patch.paths), *changed]))
    stack = lockfile.read(workspace.patches).get(target.name)
    base = relock.pristine(target, stack, paths)
    steps = planning.steps([draft.patch for draft in drafts], base)
    now = fs.snapshot(target.root, paths)
    edited = [path for path in paths if state_of(now[path]) != state_of(steps[-1].get(path))]
    if stack:
        _check_applied(tree_state.read(target, stack), edited)
    for path in (path for draft in drafts for path in draft.patch.paths):
        if state_of(now[path]) == state_of(base.get(path)) != state_of(steps[-1].get(path)):
            raise PatchError(
                f"{target.name}: {shown(path)} is pristine, so the edits cannot be told from the patches",
                hint="run `lora patch apply` first",
            )
    return _Work(drafts, steps, now, edited)


def _check_applied(state: TreeState, edited: Sequence[str]) -> None:
    """Raise PatchError when an edited file lacks patches of the series: the edits would take those back."""
    for path in tree_state.unpatched(state):
        if path in edited:
            raise PatchError(
                f"{state.target.name}: the series is not applied to {shown(path)}, "
                "so a patch of the edits would take it back",
                hint=f"apply it first; the edits are kept: {tree_state.apply_below(state)}",
            )


def _position(target: Target, drafts: Sequence[SeriesPatch], name: str | None) -> int:
    names = [draft.name for draft in drafts]
    if not names or (name or names[-1]) not in names:
        raise PatchError(f"{target.name} has no patch {name or 'yet'}", hint="`lora patch list` shows them")
    return names.index(name or names[-1])


def diff(before: Image, after: Image, paths: Iterable[str]) -> bytes:
    """Return git's diff between two states of those files; empty when they are the same."""
    from lora_training import repositories

    with tempfile.TemporaryDirectory() as scratch, repositories.created(Path(scratch), "--template=") as repo:
        trees = [_tree(repo, {path: image.get(path) for path in paths}) for image in (before, after)]
        difference: bytes = repo.git(c=_SETTINGS).diff(*_DIFF, *trees, **repositories.RAW)
        return difference


def _tree(repo: Repo, image: Image) -> str:
    """Put exactly these files into the index; return the id of its tree."""
    from gitdb import IStream

    repo.git.read_tree("--empty")
    with tempfile.TemporaryFile() as rows:
        for path, node in image.items():
            if node and not node.is_folder:
                blob = repo.odb.store(IStream("blob", len(node.data), BytesIO(node.data))).hexsha.decode()
                rows.write(os.fsencode(f"{node.mode:06o} {blob}\t{path}\0"))
        rows.seek(0)
        repo.git.update_index("-z", "--index-info", istream=rows)
    return str(repo.git.write_tree())


def _slug(title: str) -> str:
    plain = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", title))
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    if not slug:
        raise PatchError(f"{title!r} gives no file name", hint="a title has letters or digits")
    return slug[:60].rstrip("-")


def today() -> str:
    """Return the date for a header's `Last-Update`."""
    return dt.datetime.now(tz=dt.timezone.utc).date().isoformat()


def save_edits(found: Sequence[TreeState], edited: Sequence[Sequence[str]], file: Path) -> None:
    """Write the edits in each tree as a patch: those of one tree to `file`, of several to `STEM-UPSTREAM.SUFFIX` each.

    Raises PatchError when such a file is there already, and for edits that no patch can hold; nothing is written then.
    """
    trees = [(item, paths) for item, paths in zip(found, edited, strict=True) if paths]
    patches = {}
    for item, paths in trees:
        path = file if len(trees) == 1 else file.with_name(f"{file.stem}-{item.target.name}{file.suffix}")
        if path.exists():
            raise PatchError(f"{path} is there already", hint="name another file for the edits")
        patches[path] = _edits_patch(item, paths)
    for path, data in patches.items():
        fs.replace_file(path, data)


def _edits_patch(item: TreeState, edited: Sequence[str]) -> bytes:
    """Diff the edited files of a tree against the patched files, or the pristine ones where no patch was applied."""
    outside = tree_state.outside_series(item, edited)
    base = relock.pristine(item.target, item.stack, [*item.stack.pristine, *outside])
    now = {**item.image, **fs.snapshot(item.target.root, outside)}
    # git reports a folder as changed only where it contains another repository
    folders = [path for path in edited if path.endswith("/") or ((node := now[path]) and node.is_folder)]
    if folders:
        raise PatchError(
            f"{item.target.name}: {shown(folders[0])} is a folder, which no patch can hold",
            hint="nothing was written; move it away and run this again",
        )
    # a pristine copy shows that a file was patched; a file that a patch creates has none
    was_patched = {path for path in item.steps if item.image.get(path + COPY) or item.stack.state(path, 0) == ABSENT}
    patched = was_patched.intersection(edited)
    final = tree_state.patched(item, base)[0] if patched else base
    return diff({path: (final if path in patched else base).get(path) for path in edited}, now, edited)
