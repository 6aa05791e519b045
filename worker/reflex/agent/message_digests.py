"""Digests of conversations: what a model is told by messages, written out and hashed once for each part of them.

A run asks the model again and again with the same messages and a few more. Writing all of them out for each request
would cost the square of their number.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

from pydantic_ai.messages import ModelMessage, ModelResponse

from reflex.agent.fingerprints import UNTOLD, told

__all__ = ["MessageDigests"]

NOTHING: Final = bytes(32)
# Of what a part's fields hold, these cannot change.
IMMUTABLE: Final = (str, bytes, int, float, type(None))


class Known(NamedTuple):
    """A part that was digested. `looked` is what its fields held then: an author's code may change a message in place.
    The part itself is held, too, so that no other gets its id."""

    part: Any
    looked: tuple[Any, ...]
    digest: bytes


class MessageDigests:
    """Digests the conversations of one run of an agent.

    Attributes:
        written: Bytes of JSON that were written so far to be hashed.
    """

    def __init__(self) -> None:
        self.written = 0
        self._known: dict[int, Known] = {}
        self._instructions: dict[str, bytes] = {}

    def of(self, messages: Sequence[ModelMessage]) -> bytes:
        """Of all that the messages tell: equal for conversations that tell the same.

        Raises:
            ValueError: Something in them cannot be written as JSON.
        """
        known: dict[int, Known] = {}
        whole = hashlib.sha256()
        for message in messages:
            new = [part for part in message.parts if not self._is_known(part, known)]
            if new:
                self._learn(message, new, known)
            whole.update(message.kind.encode() + len(message.parts).to_bytes(4))
            whole.update(self._of_instructions(getattr(message, "instructions", None)))
            whole.update(b"".join([known[id(part)].digest for part in message.parts]))
        # What this conversation does not hold, the next one of the run hardly will: a long run keeps no more than it.
        self._known = known
        return whole.digest()

    def of_calls(self, messages: Sequence[ModelMessage]) -> bytes:
        """Of the conversation up to the last response, which asks for the calls that are made now; else as `of`."""
        last = max((at for at, message in enumerate(messages) if isinstance(message, ModelResponse)), default=-1)
        return self.of(messages[: last + 1])

    def _is_known(self, part: Any, known: dict[int, Known]) -> bool:
        found = self._known.get(id(part))
        if found is None:
            return id(part) in known
        try:
            same = fields_of(part) == found.looked
        except Exception:  # noqa: BLE001 (an author's __eq__)
            same = False
        if same:
            known[id(part)] = found
        return same

    def _learn(self, message: ModelMessage, parts: list[Any], known: dict[int, Known]) -> None:
        ((_, _, said),) = told([replace(message, parts=parts)])
        for part, plain in zip(parts, said, strict=True):
            text = json.dumps(plain, sort_keys=True).encode()
            self.written += len(text)
            known[id(part)] = Known(part, looked_at(part), hashlib.sha256(text).digest())

    def _of_instructions(self, text: str | None) -> bytes:
        if text is None:
            return NOTHING
        if (digest := self._instructions.get(text)) is None:
            encoded = json.dumps(text).encode()
            self.written += len(encoded)
            digest = self._instructions[text] = hashlib.sha256(encoded).digest()
        return digest


def looked_at(part: Any) -> tuple[Any, ...]:
    """What the fields of a part hold, so that a change in place is seen: compared with `==`, which takes no time for
    what is the same object. A field that cannot be copied is equal to nothing: its part is written out each time. What
    the model is not told is not copied: an application's metadata may be anything."""
    fields = cast("dict[str, Any]", vars(part)).items()
    return tuple(value if name in UNTOLD or isinstance(value, IMMUTABLE) else copied(value) for name, value in fields)


def fields_of(part: Any) -> tuple[Any, ...]:
    return tuple(cast("dict[str, Any]", vars(part)).values())


def copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 (an author's object)
        return object()
