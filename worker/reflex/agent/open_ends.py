"""Errors by which pydantic-ai tells the model that a tool failed, although nobody knows whether it did its work."""

import sys
from collections.abc import Iterator
from typing import Final, cast

__all__ = ["leaves_open"]

# JSON-RPC: the server has looked at the call, and not made it. Of any other error, a lost connection and a late answer
# among them, it may have made it.
NOT_MADE: Final = frozenset({-32700, -32600, -32601, -32602})


def leaves_open(error: Exception) -> bool:
    """Whether the tool said nothing itself: it took too long, or the MCP server that has it did not answer."""
    timed_out = isinstance(error.__context__, TimeoutError) and error.__suppress_context__
    return timed_out or any(map(is_unanswered, leaves(error.__cause__)))


def is_unanswered(error: BaseException) -> bool:
    # Imported by whoever has such a server; its name differs between versions of the SDK, but not here.
    protocol_error = getattr(sys.modules.get("fastmcp.exceptions"), "McpError", None)
    return protocol_error is not None and isinstance(error, protocol_error) and error.error.code not in NOT_MADE  # pyright: ignore


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    """A client in a task group may raise a group."""
    if isinstance(error, BaseExceptionGroup):
        for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(each)
    elif error is not None:
        yield error
