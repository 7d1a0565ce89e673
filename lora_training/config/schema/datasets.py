"""Upstream's schema of a dataset configuration, read from `library/config_util.py`."""

from __future__ import annotations

from typing import Any

from lora_training.config.schema.interp import Interpreter
from lora_training.config.schema.shapes import STYLE_KEYS, DatasetSchema, Shape, Style, Table
from lora_training.config.schema.values import Function, Instance, Raised, SymbolCall, Undecided
from lora_training.errors import UpstreamError

_MODULE, _CLASS = "library.config_util", "ConfigSanitizer"
_SUPPORTED = (True, True, True, True)  # dreambooth, finetuning, controlnet (with masked_loss), caption dropout
_SCALARS = {bool: "bool", int: "int", float: "float", str: "str", dict: "dict", None: "none"}


class _Recorder(Interpreter):
    """An interpreter that remembers what `voluptuous.Schema` was given."""

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call(function, args, kwargs)
        if isinstance(result, SymbolCall) and result.function == "voluptuous.Schema":
            self.schemas.append(args[0])
        return result

    def schemas_of(self, function: Function, *args: Any) -> list[Any]:
        """The schemas that a call makes, in order."""
        self.schemas: list[Any] = []
        try:
            self.run_function(function, args, {})
        except (Undecided, Raised):
            if not self.schemas:
                raise
        return self.schemas


def read(interpreter: Interpreter) -> DatasetSchema:
    """The dataset schema of the interpreter's tree. Raises UpstreamError when it cannot be read."""
    recorder = _Recorder(interpreter.tree)
    recorder.schemas = []
    sanitizer = recorder.call_name(_MODULE, _CLASS, *_SUPPORTED)
    try:
        return _schema(recorder, sanitizer)
    except (Undecided, Raised, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise UpstreamError(f"cannot read the dataset schema of {_MODULE}: {exc!r}") from exc


def _schema(recorder: _Recorder, sanitizer: Instance) -> DatasetSchema:
    whole = sanitizer.names["user_config_validator"].args[0]
    (dataset,) = whole["datasets"]
    styles = {}
    for style, key in STYLE_KEYS.items():
        probe = {"subsets": [{key: "probe"}]}
        (keys,) = recorder.schemas_of(dataset, probe)
        (subset,) = keys["subsets"]
        own = {k: v for k, v in keys.items() if k != "subsets"}
        styles[style] = Style(_table(recorder, own), _table(recorder, subset))
    return DatasetSchema(_table(recorder, whole["general"]), styles)


def _table(recorder: _Recorder, raw: dict[Any, Any]) -> Table:
    names = {key: key.args[0] if isinstance(key, SymbolCall) else key for key in raw}
    required = tuple(n for k, n in names.items() if isinstance(k, SymbolCall) and k.function.endswith(".Required"))
    return Table({names[key]: _shape(recorder, value) for key, value in raw.items()}, required)


def _shape(recorder: _Recorder, value: Any) -> Shape:
    if not isinstance(value, SymbolCall):
        return Shape((_SCALARS[value],))
    if value.function == "functools.partial":
        function, *bound = value.args
        return _shape(recorder, recorder.schemas_of(function, *bound, SymbolCall("value", (), {}))[0])
    if value.function == "voluptuous.ExactSequence":
        return Shape((), tuple(_SCALARS[item] for item in value.args[0]))
    if value.function == "voluptuous.Any":
        parts = [_shape(recorder, part) for part in value.args]
        return Shape(tuple(s for p in parts for s in p.scalars), tuple(s for p in parts for s in p.sequence))
    raise UpstreamError(f"cannot read the dataset schema of {_MODULE}: {value.function} is new")
