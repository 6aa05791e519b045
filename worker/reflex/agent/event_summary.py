"""Many events as a text that fits into a prompt: bounded, and the same for the same events.

    12 events from 2026-11-28 12:00:00 to 2026-11-28 12:04:10 UTC (0:04:10)
    types: log.error 9, log.warning 3
    sources: http 12
    message: "connection refused" 8, "timeout after 30 s" 2, "slow" 1, "slower" 1
    sample 1: log.error 12:00:00 {"message":"connection refused"}
    sample 12: log.error 12:04:10 {"message":"timeout after 30 s"}

A field that is different in each event is left to the samples: ids say nothing of many events.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from reflex.core.events import Event

__all__ = ["summarised"]

SHORTEST: Final = 100
VALUES_SHOWN: Final = 5
FIELDS_SHOWN: Final = 12
SAMPLES_SHOWN: Final = 5
VALUE_LENGTH: Final = 120
# Fields of objects in objects, down to here.
DEEPEST: Final = 3
ELLIPSIS: Final = "…"
# Between two characters that are shown as one.
JOINER: Final = "\u200d"


def summarised(events: Sequence[Event], max_chars: int) -> str:
    """The text, of at most `max_chars` characters."""
    if max_chars < SHORTEST:
        raise ValueError(f"summary(): max_chars is {max_chars}; it must be at least {SHORTEST}")
    if not events:
        return "no events"
    lines = [span(events), counted("types", Counter(event.type for event in events))]
    for name in ("source", "key"):
        values = Counter(value for event in events if (value := getattr(event, name)) is not None)
        if values and (len(values) < len(events) or len(events) == 1):
            lines.append(counted(f"{name}s", values))
    lines += frequent_fields(events)
    kept = fitting(lines, max_chars)
    left = max_chars - sum(len(line) + 1 for line in kept)
    return "\n".join([*kept, *samples(events, left)])


def span(events: Sequence[Event]) -> str:
    times = [event.time.astimezone(UTC) for event in events]
    first, last = min(times), max(times)
    count = "1 event" if len(events) == 1 else f"{len(events)} events"
    if first == last:
        return f"{count} at {moment(first)} UTC"
    return f"{count} from {moment(first)} to {moment(last)} UTC ({str(last - first).split('.')[0]})"


def moment(time: datetime) -> str:
    return time.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def counted(name: str, values: Counter[str]) -> str:
    """The most frequent values, ties in the order of the alphabet."""
    ranked = sorted(values.items(), key=lambda each: (-each[1], each[0]))
    shown = ", ".join(f"{cut(value, VALUE_LENGTH)} {count}" for value, count in ranked[:VALUES_SHOWN])
    more = len(ranked) - VALUES_SHOWN
    return f"{name}: {shown}" + (f", and {more} more values" if more > 0 else "")


def frequent_fields(events: Sequence[Event]) -> list[str]:
    """A line for each field of the payloads in which values repeat, those that say most about all events first."""
    fields: dict[str, Counter[str]] = {}
    for event in events:
        for path, value in leaves(event.payload):
            fields.setdefault(path, Counter())[value] += 1
    repeated = {path: values for path, values in fields.items() if max(values.values()) > 1}
    ranked = sorted(repeated.items(), key=lambda each: (-each[1].total(), len(each[1]), each[0]))
    return [counted(path, values) for path, values in ranked[:FIELDS_SHOWN]]


def leaves(payload: Mapping[str, Any], under: str = "", depth: int = 1) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in payload.items():
        path = f"{under}{name}"
        if isinstance(value, dict) and depth < DEEPEST:
            found += leaves(cast("dict[str, Any]", value), f"{path}.", depth + 1)
        elif not isinstance(value, dict | list):
            found.append((path, as_text(value)))
    return found


def samples(events: Sequence[Event], left: int) -> list[str]:
    """The first, the last, and some in between, as far as there is room."""
    count = min(SAMPLES_SHOWN, len(events))
    places = sorted({round(at * (len(events) - 1) / max(1, count - 1)) for at in range(count)})
    # The first and the last are tried before those in between.
    order = [places[0], *places[-1:], *places[1:-1]]
    room = max(0, left) // len(places)
    shown: dict[int, str] = {}
    for place in dict.fromkeys(order):
        event = events[place]
        head = f"sample {place + 1}: {event.type} {event.time.astimezone(UTC):%H:%M:%S} "
        if room > len(head) + 20:
            shown[place] = head + cut(as_text(event.payload), room - len(head) - 1)
    return [shown[place] for place in sorted(shown)]


def fitting(lines: Sequence[str], max_chars: int) -> list[str]:
    """As many whole lines as fit, the last of them cut if it is the first. A third of the room is left to samples."""
    kept: list[str] = []
    room = max_chars
    for number, line in enumerate(lines):
        if number > 1 and len(line) + 1 > room - max_chars // 3:
            break
        if number > 0 and room < 2:
            break
        kept.append(cut(line, room if number == 0 else room - 1))
        room -= len(kept[-1]) + (number > 0)
    return kept


def as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def cut(text: str, length: int) -> str:
    """At most so many characters, none of them half: neither a combining mark nor a part of an emoji is cut off from
    what it belongs to."""
    if len(text) <= length:
        return text
    end = max(0, length - 1)
    while end > 0 and belongs_together(text[end - 1], text[end]):
        end -= 1
    return text[:end] + ELLIPSIS


def belongs_together(before: str, after: str) -> bool:
    return before == JOINER or after == JOINER or is_mark(after)


def is_mark(character: str) -> bool:
    # Marks, variation selectors and skin tones.
    return unicodedata.category(character) in ("Mn", "Me", "Mc") or "\U0001f3fb" <= character <= "\U0001f3ff"
