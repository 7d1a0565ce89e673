"""Flags of a parser as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_PUBLIC = ("name", "dest", "type", "default", "choices", "nargs", "action", "help", "required", "const", "defined_in")


@dataclass(frozen=True)
class Flag:
    """One flag of a script, in argparse's terms.

    `name` is its first long option. `type` is the name of its type function (None: a string, or no value at all).
    `default`, `const` and `choices` hold JSON values, or the source text of objects outside the tree. `type_source` is
    the source of a type function that upstream defines. `defined_in` is the upstream function that adds the flag.
    """

    name: str
    dest: str
    type: str | None
    default: Any
    choices: tuple[Any, ...] | None
    nargs: str | int | None
    action: str
    help: str | None
    required: bool = False
    const: Any = None
    options: tuple[str, ...] = ()
    type_source: str | None = None
    defined_in: str | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Flag:
        """Return the flag that the reader describes in JSON values."""
        choices = raw["choices"]
        return cls(**{**raw, "choices": None if choices is None else tuple(choices), "options": tuple(raw["options"])})

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.nargs == 0 or self.action == "boolean_optional"

    @property
    def is_list(self) -> bool:
        """Whether the flag takes any number of values."""
        return self.nargs in ("*", "+") or (isinstance(self.nargs, int) and self.nargs > 0)

    @property
    def takes_text(self) -> bool:
        """Whether the flag takes one string, without conversion."""
        return not self.is_switch and not self.is_list and self.type in ("str", "Path", None)

    @property
    def english(self) -> str:
        """The help text without upstream's Japanese part."""
        text = self.help or ""
        cut = next((i for i, c in enumerate(text) if ord(c) >= 0x3000), None)  # noqa: PLR2004 - first CJK block
        return (
            text
            if cut is None
            else text[: text.rfind("/", 0, cut)].strip()
            if "/" in text[:cut]
            else text[:cut].strip()
        )

    def public(self) -> dict[str, Any]:
        """Return the fields that `lora config schema --json` documents."""
        whole = asdict(self)
        return {k: whole[k] for k in _PUBLIC}
