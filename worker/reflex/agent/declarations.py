"""Declarations: what an author's module makes while it is imported, triggers and schedules. Making one registers it
with the app being loaded."""

import inspect
import re
from types import FrameType
from typing import Any, ClassVar, Final

from reflex.agent.failures import shown

__all__ = ["Declaration", "checked_name", "constructed"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# Every declaration of the process that a module's body made, in order. `app.load_app` picks from it those of its
# module, which may have been imported long before.
constructed: Final[list["Declaration"]] = []


class Declaration:
    """Something with a name that is unique in its app, and the place in the author's code where it was made.

    A subclass calls `super().__init__` last: what raises in between was never declared.
    """

    __slots__ = ("module", "name", "namespace", "where")
    kind: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name
        body = module_body(inspect.currentframe())
        self.module: str = body.f_globals["__name__"] if body else "?"
        self.namespace: dict[str, Any] = body.f_globals if body else {}
        self.where = f"{shown(body.f_code.co_filename)}:{body.f_lineno}" if body else "?"
        if body:
            constructed.append(self)


def checked_name(kind: str, name: object) -> str:
    """Raises TypeError or ValueError with what the name of such a declaration looks like, if it is none."""
    if not isinstance(name, str):
        raise TypeError(f"a {kind}'s name is a string, not {name!r}")
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of a {kind}: 1 to 100 letters, digits, '.', '_' or '-', "
            "the first of them a letter or a digit"
        )
    return name


def module_body(frame: FrameType | None) -> FrameType | None:
    """The frame of the module whose import makes this call. None outside of an import: the body at the bottom of the
    stack is the program's own."""
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame if frame is not None and frame.f_back is not None else None
