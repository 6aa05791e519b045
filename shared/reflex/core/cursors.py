"""A cursor: a reader's position in the log, in commit order. Opaque to clients, and short."""

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import ClassVar, Final, NamedTuple, Self

from reflex.core.errors import EventRejected

__all__ = ["Cursor", "CursorExpired", "CursorRejected"]

# A version, so that cursors that clients have kept can be told from those of another form one day.
FORM: Final = struct.Struct(">BQH")
VERSION: Final = 1
MAX_POSITION: Final = 2**63 - 1


class CursorRejected(EventRejected):
    """It is no cursor of this log."""

    code: ClassVar[str] = "cursor_rejected"


class CursorExpired(CursorRejected):
    """What came after it was dropped from the log: a reader from there would miss events."""

    code: ClassVar[str] = "cursor_expired"


class Cursor(NamedTuple):
    """Everything up to here was read: the position of an append in the log, and the place of an event in it (from 1).

    Compares in log order.
    """

    position: int
    place: int

    def __str__(self) -> str:
        return urlsafe_b64encode(FORM.pack(VERSION, *self)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, *, field: str = "after") -> Self:
        """Read what `str()` wrote.

        Raises:
            CursorRejected: It is something else; `field` names it.
        """
        try:
            version, position, place = FORM.unpack(urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
        except (ValueError, struct.error, binascii.Error):
            version = position = place = 0
        cursor = cls(position, place)
        # Other characters than those of base64 are skipped when it is decoded, hence the comparison.
        if version != VERSION or position > MAX_POSITION or str(cursor) != text:
            raise CursorRejected(f"{text[:60]!r} is no cursor; use one as Reflex gave it", field=field)
        return cursor
