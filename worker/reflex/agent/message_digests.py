"""Digests of conversations: what a model is told by messages, each of them written out and hashed once.

A run asks the model again and again with the same messages and a few more. Writing all of them out for each request
would cost the square of their number.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any, Final, NamedTuple

from pydantic_ai.messages import ModelMessage, ModelResponse

from reflex.agent.arguments import SORTED
from reflex.agent.fingerprints import UNTOLD, parts_told

__all__ = ["MessageDigests"]

NOTHING: Final = bytes(32)
# Of what a part's fields hold, these cannot change.
IMMUTABLE: Final = (str, bytes, int, float, type(None))


class Known(NamedTuple):
    """A message that was digested: what it consists of, and what that held then, since an author's code may change a
    message in place. The message itself is held, too, so that no other gets its id."""

    message: ModelMessage
    fields: dict[str, Any]
    instructions: str | None
    parts: list[Any]
    fields_of_parts: list[dict[str, Any]]
    looked: list[dict[str, Any]]
    digest: bytes


class Told:
    """A conversation that was digested, message by message."""

    __slots__ = ("_hash", "known", "messages")

    def __init__(self) -> None:
        self.messages: list[ModelMessage] = []
        self.known: list[Known] = []
        self._hash = hashlib.sha256()

    def add(self, known: Known) -> None:
        self.messages.append(known.message)
        self.known.append(known)
        self._hash.update(known.digest)

    def begins(self, messages: Sequence[ModelMessage]) -> bool:
        """Whether the messages are these very ones, and perhaps more."""
        return 0 < len(self.messages) <= len(messages) and all(map(is_, self.messages, messages))

    def digest(self) -> bytes:
        return self._hash.copy().digest()


class MessageDigests:
    """Digests the conversations of one run of an agent.

    Attributes:
        written: Bytes of JSON that were written so far to be hashed.
    """

    def __init__(self) -> None:
        self.written = 0
        # Two, since a history processor may show the model other messages than those of the run. What neither of them
        # holds, the next one of the run hardly will: a long run keeps no more.
        self._last = self._before = Told()
        self._instructions: dict[str, bytes] = {}

    def of(self, messages: Sequence[ModelMessage]) -> bytes:
        """Of all that the messages tell: equal for conversations that tell the same.

        Raises:
            ValueError: Something in them cannot be written as JSON.
        """
        for told in (self._last, self._before):
            if told.begins(messages) and are_unchanged(told.known):
                break
        else:
            told = Told()
        self._go_on(told, messages)
        self._before, self._last = self._last, told
        return told.digest()

    def of_calls(self, messages: Sequence[ModelMessage]) -> bytes:
        """Of the conversation up to the last response, which asks for the calls that are made now. What was in it when
        the model was asked counts as it was then; else as `of`."""
        end = len(messages)
        while end and not isinstance(messages[end - 1], ModelResponse):
            end -= 1
        messages = messages[:end]
        told = self._last
        if not told.begins(messages):
            told = self._before
            if not (told.begins(messages) and are_unchanged(told.known)):
                told = Told()
        self._go_on(told, messages, as_it_was=self._last)
        if told is not self._last:
            self._before, self._last = self._last, told
        return told.digest()

    def _go_on(self, told: Told, messages: Sequence[ModelMessage], *, as_it_was: Told | None = None) -> None:
        """Add those that are missing. What another conversation has is not written once more, unless it was changed
        in place since; of `as_it_was` that makes no difference."""
        elsewhere = {
            id(known.message): (known, other is as_it_was)
            for other in (self._before, self._last)
            if other is not told
            for known in other.known
        }
        for message in messages[len(told.messages) :]:
            known, counts = elsewhere.get(id(message), (None, False))
            if known is None or not (counts or are_unchanged([known])):
                known = self._learned(message)
            told.add(known)

    def _learned(self, message: ModelMessage) -> Known:
        fields = vars(message)
        instructions: str | None = fields.get("instructions")
        parts = [*message.parts]
        fields_of_parts = [*map(vars, parts)]
        looked = [*map(looked_at, fields_of_parts)]
        text = SORTED([message.kind, parts_told(message)]).encode()
        self.written += len(text)
        digest = hashlib.sha256(self._of_instructions(instructions) + text).digest()
        return Known(message, fields, instructions, parts, fields_of_parts, looked, digest)

    def _of_instructions(self, text: str | None) -> bytes:
        if text is None:
            return NOTHING
        if (digest := self._instructions.get(text)) is None:
            encoded = json.dumps(text).encode()
            self.written += len(encoded)
            digest = self._instructions[text] = hashlib.sha256(encoded).digest()
        return digest


def are_unchanged(conversation: Iterable[Known]) -> bool:
    """Compared with `==`, which takes no time for what is the same object. Nothing is made anew to be compared: this is
    done with each message before each request."""
    try:
        for _, fields, instructions, parts, fields_of_parts, looked, _ in conversation:
            if fields["parts"] != parts or fields_of_parts != looked or fields.get("instructions") != instructions:
                return False
    except Exception:  # noqa: BLE001 (an author's __eq__)
        return False
    return True


def looked_at(fields: dict[str, Any]) -> dict[str, Any]:
    """What the fields of a part hold, so that a change in place is seen. A field that cannot be copied is equal to
    nothing: its message is written out each time. What the model is not told is not copied: an application's metadata
    may be anything."""
    held = fields.copy()  # it shares its names with the original, which a new dict would not
    for name, value in fields.items():
        if not isinstance(value, IMMUTABLE) and name not in UNTOLD:
            held[name] = copied(value)
    return held


def copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 (an author's object)
        return object()
