"""Large texts in the results of steps: cut out, so that one that comes again in a delivery is kept once.

A tool that reads the same document ten times gives ten results; so does an agent that hands on what another one wrote.

    {"ended":"value","value":{"return_value":"…500 kB…"}}
    {"cut":[[43,"<SHA-256 of …500 kB…>"]],"rest":{"ended":"value","value":{"return_value":""}}}

Cut and put together as text: numbers and the order of names stay what they are.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from reflex.core.journal import Step, StepKind

__all__ = ["LARGE", "blobs_in", "cut", "whole"]

# In characters. A row of its own for less would cost more than a second copy.
LARGE: Final = 16 * 1024
STRING: Final = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
CUT: Final = '{"cut":'
REST: Final = ',"rest":'


def cut(result: str) -> tuple[str, dict[bytes, str]]:
    """A step's result without its large texts, and those by their digests, as they stand between their quotes."""
    if len(result) < LARGE:
        return result, {}
    rest: list[str] = []
    cuts: list[tuple[int, str]] = []
    texts: dict[bytes, str] = {}
    begin = at = 0
    for found in STRING.finditer(result):
        start, end = found.span(1)
        if end - start >= LARGE:
            digest = hashlib.sha256(found[1].encode()).digest()
            texts[digest] = found[1]
            rest.append(result[begin:start])
            at += start - begin
            cuts.append((at, digest.hex()))
            begin = end
    if not cuts:
        return result, {}
    return f"{CUT}{json.dumps(cuts)}{REST}{''.join(rest)}{result[begin:]}}}", texts


def whole(result: str, texts: Mapping[str, str]) -> str:
    """The inverse of `cut`. Without one of its texts a result stays as it is, and whoever reads it cannot.

    Args:
        texts: By their digests in hexadecimal.
    """
    if not result.startswith(CUT):
        return result
    cuts: list[tuple[int, str]]
    cuts, end = json.JSONDecoder().raw_decode(result, len(CUT))
    rest = result[end + len(REST) : -1]
    if not all(digest in texts for _, digest in cuts):
        return result
    pieces: list[str] = []
    begin = 0
    for at, digest in cuts:
        pieces += rest[begin:at], texts[digest]
        begin = at
    return "".join([*pieces, rest[begin:]])


def blobs_in(steps: Iterable[Step]) -> dict[str, str]:
    """The large texts among the steps of a delivery, by their digests in hexadecimal."""
    return {step.fingerprint.hex(): step.result[1:-1] for step in steps if step.kind is StepKind.BLOB}
