"""Digests of conversations: what a model is told by messages, each of them written out and hashed once.

A run asks the model again and again with the same messages and a few more. Writing all of them out for each request
would cost the square of their number.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from pydantic_ai.messages import ModelMessage, ModelResponse

from reflex.agent.fingerprints import UNTOLD, parts_told

__all__ = ["MessageDigests"]

NOTHING: Final = bytes(32)
SORTED: Final = json.JSONEncoder(sort_keys=True).encode
# Of what a part's fields hold, these cannot change.
IMMUTABLE: Final = (str, bytes, int, float, type(None))


class Known(NamedTuple):
    """A message that was digested. `looked` is what the fields of its parts held then: an author's code may change a
    message in place. The message itself is held, too, so that no other gets its id."""

    message: ModelMessage
    instructions: str | None
    looked: list[dict[str, Any]]
    digest: bytes


class MessageDigests:
    """Digests the conversations of one run of an agent.

    Attributes:
        written: Bytes of JSON that were written so far to be hashed.
    """

    def __init__(self) -> None:
        self.written = 0
        self._known: dict[int, Known] = {}
        self._before: dict[int, Known] = {}
        self._instructions: dict[str, bytes] = {}

    def of(self, messages: Sequence[ModelMessage]) -> bytes:
        """Of all that the messages tell: equal for conversations that tell the same.

        Raises:
            ValueError: Something in them cannot be written as JSON.
        """
        known: dict[int, Known] = {}
        for message in messages:
            known[id(message)] = self._looked_up(message, self._known, self._before)
        # What neither this conversation holds nor the one before it, the next of the run hardly will: a long run keeps
        # no more. Two, since a history processor may show the model other messages than those of the run.
        self._before, self._known = self._known, known
        return hashlib.sha256(b"".join([known[id(message)].digest for message in messages])).digest()

    def of_calls(self, messages: Sequence[ModelMessage]) -> bytes:
        """Of the conversation up to the last response, which asks for the calls that are made now. What was in it when
        the model was asked counts as it was then; else as `of`."""
        end = len(messages)
        while end and not isinstance(messages[end - 1], ModelResponse):
            end -= 1
        digests: list[bytes] = []
        for message in messages[:end]:
            known = self._known.get(id(message))
            if known is None:
                known = self._known[id(message)] = self._looked_up(message, self._before)
            digests.append(known.digest)
        return hashlib.sha256(b"".join(digests)).digest()

    def _looked_up(self, message: ModelMessage, *among: dict[int, Known]) -> Known:
        for known in among:
            if (found := known.get(id(message))) is not None:
                return found if is_unchanged(found) else self._learned(message)
        return self._learned(message)

    def _learned(self, message: ModelMessage) -> Known:
        instructions: str | None = vars(message).get("instructions")
        looked = [looked_at(part) for part in message.parts]
        text = SORTED([message.kind, parts_told(message)]).encode()
        self.written += len(text)
        digest = hashlib.sha256(self._of_instructions(instructions) + text).digest()
        return Known(message, instructions, looked, digest)

    def _of_instructions(self, text: str | None) -> bytes:
        if text is None:
            return NOTHING
        if (digest := self._instructions.get(text)) is None:
            encoded = json.dumps(text).encode()
            self.written += len(encoded)
            digest = self._instructions[text] = hashlib.sha256(encoded).digest()
        return digest


def is_unchanged(known: Known) -> bool:
    """Compared with `==`, which takes no time for what is the same object."""
    message, instructions, looked, _ = known
    try:
        return [*map(vars, message.parts)] == looked and vars(message).get("instructions") == instructions
    except Exception:  # noqa: BLE001 (an author's __eq__)
        return False


def looked_at(part: Any) -> dict[str, Any]:
    """What the fields of a part hold, so that a change in place is seen. A field that cannot be copied is equal to
    nothing: its message is written out each time. What the model is not told is not copied: an application's metadata
    may be anything."""
    fields = cast("dict[str, Any]", vars(part)).items()
    return {name: value if name in UNTOLD or isinstance(value, IMMUTABLE) else copied(value) for name, value in fields}


def copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 (an author's object)
        return object()
