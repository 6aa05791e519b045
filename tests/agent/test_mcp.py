"""Tools of an MCP server, which runs as a process of its own and speaks the protocol: steps like those of any tool."""

import sys
from pathlib import Path

import pytest
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import McpError, ToolError  # pyright: ignore[reportPrivateImportUsage]
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.mcp import MCPToolset

from reflex.agent.context import AgentContext
from reflex.agent.effects import once
from reflex.agent.open_ends import leaves_open
from reflex.core.effects import list_effects
from reflex.core.settlement import Outcome
from tests.agent.stub_provider import refusal, text, tool_call
from tests.agent.till import till

BANK = Path(__file__).with_name("mcp_bank.py")


class Bank:
    """An agent with the bank's tools, and what the bank has been asked for."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger"
        transport = StdioTransport(sys.executable, [str(BANK), str(self.ledger)])
        self.agent: Agent[AgentContext, str] = Agent(
            deps_type=AgentContext, toolsets=[MCPToolset(transport, id="bank")]
        )

    @property
    def calls(self) -> list[str]:
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []


async def test_a_call_of_an_mcp_server_is_made_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The provider fails after the second call, and later the worker dies when all is done. Fails if the calls are no
    steps: each attempt would make them again."""
    asked, moved = tool_call("balance", {"account": "A"}), tool_call("transfer", {"account": "A", "cents": 42})
    async with till(database_url, monkeypatch, asked, moved, refusal(500), text("done")) as t:
        assert (await t.attempt(Bank(tmp_path).agent)).outcome is Outcome.RETRY
        _, lease = await t.claimed()
        assert (await t.attempts(Bank(tmp_path).agent)(lease)).outcome is Outcome.SUCCEEDED
        await t.taken_away()
        settlement = await t.attempt(Bank(tmp_path).agent)
        assert (settlement.outcome, settlement.output, t.requests) == (Outcome.SUCCEEDED, '"done"', 4)
        assert Bank(tmp_path).calls == ["balance A", "transfer 42 from A"]
        told = [part for part in t.provider.requests[-1]["messages"] if part["role"] == "tool"]
        assert [part["content"] for part in told] == ['{"cents":4200}', "moved 42"]


async def test_a_call_that_must_not_be_repeated_is_parked_if_its_server_dies_in_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The trigger says that it is `once`, since what comes from elsewhere cannot. pydantic-ai would have the model try
    again. Fails if that is believed: the money would be moved twice."""
    much = tool_call("transfer", {"account": "A", "cents": 2_000_000})
    async with till(database_url, monkeypatch, much, much, text("done")) as t:
        settlement = await t.attempt(Bank(tmp_path).agent, effects={"transfer": once()})
        assert (settlement.outcome, t.requests) == (Outcome.WAITING, 1)
        assert Bank(tmp_path).calls == ["transfer 2000000 from A"]
        (effect,) = (await list_effects(t.conn)).rows
        assert (effect.tool, effect.state) == ("transfer", "unknown")


@pytest.mark.parametrize(
    ("cause", "is_open"),
    [
        (McpError(-32000, "Connection closed"), True),
        (McpError(-32603, "internal error"), True),
        (McpError(-32602, "invalid params"), False),
        (McpError(-32601, "no such method"), False),
        (ExceptionGroup("of a client", [ExceptionGroup("", [McpError(-32001, "timed out")])]), True),
        (ToolError("no such account"), False),
        (None, False),
    ],
)
def test_what_an_mcp_server_answered_is_an_end_and_that_it_did_not_answer_is_none(
    cause: Exception | None, *, is_open: bool
) -> None:
    error = ModelRetry("try again")
    error.__cause__ = cause
    assert leaves_open(error) is is_open
