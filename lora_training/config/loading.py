"""Build a Config from a file and its overrides. Needs no upstream."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training import nearest
from lora_training.config import document, ours
from lora_training.config.model import Config, Entry, Launch, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lora_training.config.document import Document
    from lora_training.config.positions import Path as KeyPath
    from lora_training.problems import Problem


def load(
    path: Path, *, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None, text: str | None = None
) -> Config:
    """Read a configuration file, then apply the `LORA_*` variables of `environ`, then the `--set` items.

    `text` takes the place of the file's; `environ` (by default the process's own) also supplies `${NAME}` in paths.
    Raises Unreadable (a ConfigError) if the file is not valid TOML, and ConfigError if an override does not fit; all
    other problems are in `Config.problems`.
    """
    variables = dict(os.environ if environ is None else environ)
    path = Path(path).absolute()
    doc = document.read(path, text)
    doc = document.override(doc, [*document.from_environment(variables), *document.from_sets(sets)])
    return _Builder(path, doc, variables).config()


class _Builder:
    """Collects the parts of a Config and the problems found on the way."""

    def __init__(self, path: Path, doc: Document, variables: dict[str, str]) -> None:
        self.doc = doc
        self.variables = variables
        # a partial Config with the positions, for problems found before all parts are known
        self.bare = Config(path, "", {}, variables=variables, positions=doc.positions, origins=doc.origins)
        self.problems: list[Problem] = []
        self.entries: dict[str, Entry] = {}
        self.secrets: dict[str, str] = {}

    def config(self) -> Config:
        data = self.doc.data
        self._flags()
        return Config(
            path=self.bare.path,
            script=self._script(),
            entries=self.entries,
            datasets=tuple(self._datasets()),
            general=data["general"] if self._has_general else {},
            launch=self._launch(),
            run=self._run(),
            runtime=self._runtime(),
            variables=self.variables,
            secrets=self.secrets,
            positions=self.doc.positions,
            origins=self.doc.origins,
            problems=tuple(self.problems),
        )

    @property
    def _has_general(self) -> bool:
        """Whether `[general]` belongs to the dataset configuration; without datasets it is a heading for flags."""
        return "datasets" in self.doc.data and isinstance(self.doc.data.get("general"), dict)

    def _script(self) -> str:
        script = self.doc.data.get("script")
        if isinstance(script, str) and script:
            return script.removesuffix(".py")
        message = "`script` is missing" if script is None else "`script` must be the name of one of upstream's scripts"
        self.problems.append(self.bare.problem(message, ("script",), hint='for example: script = "sdxl_train_network"'))
        return ""

    def _launch(self) -> Launch:
        launch, problems = ours.launch(self.doc.data.get("launch", {}), self.bare.problem)
        self.problems += problems
        return launch

    def _run(self) -> Run:
        raw = self.doc.data.get("run", {})
        run, problems = ours.run(raw, self.bare.path.parent, self.variables, self.bare.problem)
        self.problems += problems
        return run

    def _runtime(self) -> dict[str, Any]:
        runtime, problems = ours.runtime(self.doc.data.get("runtime", {}), self.bare.problem)
        self.problems += problems
        return runtime

    def _datasets(self) -> Iterator[dict[str, Any]]:
        raw = self.doc.data.get("datasets", [])
        hint = "write each dataset under its own [[datasets]]"
        if not isinstance(raw, list):
            self.problems.append(self.bare.problem("`datasets` must be an array of tables", ("datasets",), hint=hint))
            return
        for number, dataset in enumerate(raw):
            if isinstance(dataset, dict):
                yield dataset
            else:
                self.problems.append(self.bare.problem("a dataset must be a table", ("datasets", number), hint=hint))

    def _flags(self) -> None:
        for name, value in self.doc.data.items():
            if name in document.OURS and (name != "general" or self._has_general):
                continue
            if isinstance(value, dict) and not document.is_value_table(name):
                for key, inner in value.items():
                    self._add(key, inner, (name, key))
            else:
                self._add(name, value, (name,))
        self._launch_precision()
        self._order()

    def _launch_precision(self) -> None:
        """Pass `[launch] mixed_precision` on as the flag: upstream gives accelerate the flag's default otherwise."""
        launch = self.doc.data.get("launch")
        precision = launch.get("mixed_precision") if isinstance(launch, dict) else None
        if isinstance(precision, str) and "mixed_precision" not in self.entries:
            self._add("mixed_precision", precision, ("launch", "mixed_precision"))

    def _add(self, name: str, value: Any, path: KeyPath) -> None:
        key = name.replace("-", "_")
        if self._is_misplaced(name, value, path) or self._is_secret(key, self.doc.texts.get(path, value)):
            return
        first = self.entries.get(key)
        if first is not None:
            where = f"line {first.position.line}" if first.position else first.where
            hint = f"it is already set in {where}; keep one of them"
            self.problems.append(self.bare.problem(f"`{key}` is given twice", path, hint=hint))
            return
        origin = next((self.doc.origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.doc.origins), "")
        where = origin or str(self.bare.path)
        position = None if origin else self.doc.positions.get(path)
        self.entries[key] = Entry(key, value, where, path, position, self.doc.texts.get(path))

    def _is_secret(self, key: str, value: Any) -> bool:
        """Keep a key or token in `secrets`, which are never printed; return whether the flag is one."""
        if key not in ours.SECRETS or not isinstance(value, str):
            return False
        self.secrets[ours.SECRETS[key]] = value
        return True

    def _is_misplaced(self, name: str, value: Any, path: KeyPath) -> bool:
        """Report a list of tables in place of a flag, often a misspelt `[[datasets]]`; return whether it is one."""
        if not (isinstance(value, list) and value and all(isinstance(item, dict) for item in value)):
            return False
        hint = nearest.hint(name, ["datasets"]) or "only `datasets` is an array of tables"
        self.problems.append(self.bare.problem(f"`[[{name}]]` is not known", path, hint=hint))
        return True

    def _order(self) -> None:
        """Sort the entries in the file's order; overrides of keys that the file does not have come last."""
        last = (1, 0, 0)
        places = {key: self.doc.positions.get(entry.path) for key, entry in self.entries.items()}
        order = {key: (0, place.line, place.column) if place else last for key, place in places.items()}
        self.entries = dict(sorted(self.entries.items(), key=lambda item: order[item[0]]))
