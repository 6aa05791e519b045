"""A bank with an MCP server on standard input and output. It writes down each call in the file that it is given."""

import os
import sys
from pathlib import Path

from mcp.server import MCPServer

LEDGER = Path(sys.argv[1])
bank = MCPServer("bank")


def note(line: str) -> None:
    with LEDGER.open("a") as file:
        file.write(f"{line}\n")


@bank.tool()
def balance(account: str) -> dict[str, int]:
    """What is there, in cents."""
    note(f"balance {account}")
    return {"cents": 4200}


@bank.tool()
def transfer(account: str, cents: int) -> str:
    """Move money; of very much nothing is heard again."""
    note(f"transfer {cents} from {account}")
    if cents > 1_000_000:
        os._exit(1)
    return f"moved {cents}"


if __name__ == "__main__":
    bank.run("stdio")
