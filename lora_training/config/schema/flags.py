"""A parser's flags as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_PUBLIC = ("name", "dest", "type", "default", "choices", "nargs", "action", "help", "required", "const", "defined_in")


@dataclass(frozen=True)
class Flag:
    """One flag of a script, in argparse's terms.

    `name` is its first long option; `type` the name of its type function (None: a string, or no value at all);
    `default`, `const` and `choices` hold JSON values, or the source text of what is outside the tree;
    `type_source` is the source of a type function of upstream's own; `defined_in` is upstream's function that adds it.
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

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value: given or not given."""
        return self.nargs == 0 or self.action == "boolean_optional"

    @property
    def is_list(self) -> bool:
        """Whether it takes any number of values."""
        return self.nargs in ("*", "+") or (isinstance(self.nargs, int) and self.nargs > 0)

    @property
    def takes_text(self) -> bool:
        """Whether its value is one text, taken as it is written."""
        return not self.is_switch and not self.is_list and self.type in ("str", "Path", None)

    @property
    def english(self) -> str:
        """The help without upstream's Japanese half."""
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
        """The fields that `lora config schema --json` promises."""
        whole = asdict(self)
        return {k: whole[k] for k in _PUBLIC}
