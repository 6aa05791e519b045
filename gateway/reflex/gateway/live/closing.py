"""Why a WebSocket is closed: one table for the code that closes, for the documentation and for /asyncapi.json."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = ["CLOSINGS", "OUTBOX_REASONS", "CloseCode", "Closing"]


class CloseCode(IntEnum):
    """Codes from 4000 on are Reflex's own; the others are those of RFC 6455."""

    NORMAL = 1000
    STOPPING = 1001
    PROTOCOL_ERROR = 1002
    BINARY = 1003
    NOT_UTF_8 = 1007
    TOO_LARGE = 1009
    FAILED = 1011
    FULL = 1013
    IDLE = 4001
    ORIGIN = 4003
    TOO_SLOW = 4008
    TOO_MANY_ERRORS = 4009
    TOO_MANY_CONNECTIONS = 4029
    BAD_QUERY = 4400
    KEY_ENDED = 4401


class Closing(NamedTuple):
    """What a code means and what the client does about it."""

    meaning: str
    advice: str


# What an outbox says when it closes; anything else is a failure.
OUTBOX_REASONS: Final[Mapping[str, tuple[CloseCode, str]]] = {
    "slow": (CloseCode.TOO_SLOW, "events come faster than they are read; connect again and resume after the cursors"),
    "stopping": (CloseCode.STOPPING, "the gateway stops; connect again"),
    "key_ended": (CloseCode.KEY_ENDED, "the API key is not valid any more: it has expired, or was revoked"),
    "lost": (CloseCode.FAILED, "the log was dropped or restored, so events are missing; connect again"),
    "saturated": (CloseCode.FULL, "too many clients read old events; try again later"),
    "database_unavailable": (CloseCode.FULL, "the log cannot be read now; try again later"),
}

CLOSINGS: Final[Mapping[CloseCode, Closing]] = {
    CloseCode.NORMAL: Closing("The client said goodbye.", "Nothing."),
    CloseCode.STOPPING: Closing(
        "The gateway stops.",
        "Connect again after a random time of up to a few seconds, with `session` and `after`.",
    ),
    CloseCode.PROTOCOL_ERROR: Closing("What came is no WebSocket frame.", "A defect of the client or a proxy."),
    CloseCode.BINARY: Closing("A binary frame came.", "Send text frames."),
    CloseCode.NOT_UTF_8: Closing("A text frame is not UTF-8.", "Send UTF-8."),
    CloseCode.TOO_LARGE: Closing(
        "A frame is larger than `REFLEX_MAX_BODY_BYTES`.", "Send smaller events, or raise the limit."
    ),
    CloseCode.FAILED: Closing(
        "A defect of the gateway, or the client did not answer pings.", "Connect again with `session` and `after`."
    ),
    CloseCode.FULL: Closing(
        "The gateway has as many connections as `REFLEX_WS_MAX_CONNECTIONS` allows, or cannot read the log now.",
        "Try again later, or another gateway.",
    ),
    CloseCode.IDLE: Closing(
        "Nothing went either way for `REFLEX_WS_IDLE_S`.", "Connect again when there is something to say."
    ),
    CloseCode.ORIGIN: Closing(
        "The page that connects is of another site. Said as an HTTP 403, before there is a WebSocket.",
        "Name the site in `REFLEX_ALLOWED_ORIGINS`.",
    ),
    CloseCode.TOO_SLOW: Closing(
        "The client reads more slowly than events come; a frame `closing` was sent before, with the cursors.",
        "Connect again and subscribe with `after`, to fewer events.",
    ),
    CloseCode.TOO_MANY_ERRORS: Closing("Too many frames in a row made no sense.", "A defect of the client."),
    CloseCode.TOO_MANY_CONNECTIONS: Closing(
        "This address has as many connections as `REFLEX_WS_MAX_PER_ADDRESS` allows.",
        "Use one connection with several subscriptions. Behind a proxy, which has one address, raise the limit.",
    ),
    CloseCode.BAD_QUERY: Closing(
        "A parameter of the address makes no sense; the reason names it.", "Correct it, or leave it out."
    ),
    CloseCode.KEY_ENDED: Closing(
        "The API key that the client connected with has expired or was revoked.", "Connect again with another key."
    ),
}
