"""`reflex webhooks` as people type it."""

import asyncio
from pathlib import Path

from tests.cli.test_commands import reflex

APP = """
from reflex.agent.filters import any_event
from reflex.agent.triggers import Trigger
from reflex.agent.webhooks import Webhook

async def act(ctx): ...

Trigger("all", any_event(), act)
Webhook("github", scheme="github", type="github.{event}", key="payload.repository.full_name")
"""


async def test_webhooks_are_listed_with_what_is_missing_and_forgotten(database_url: str, tmp_path: Path) -> None:
    """Fails if the secret itself is shown, or if nobody sees that it is not set."""
    tmp_path.joinpath("hooked.py").write_text(APP)
    tmp_path.joinpath(".env").write_text("REFLEX_WEBHOOK_GITHUB_SECRET=geheimnis,another\n")

    async def run(*arguments: str) -> str:
        done = await reflex(*arguments, folder=tmp_path, url=database_url)
        assert done.code == 0, done
        return done.output

    assert "webhook     github  /webhooks/github -> github.{event}" in await run("register", "--app", "hooked")
    table, json = await asyncio.gather(run("webhooks", "list"), run("webhooks", "list", "--json"))
    assert table.splitlines()[1].split()[:7] == [
        "github", "hooked", "github", "github.{event}", "payload.repository.full_name", "REFLEX_WEBHOOK_GITHUB_SECRET",
        "2",
    ]  # fmt: skip
    assert '"secrets_set": 2' in json
    assert "geheimnis" not in table + json
    assert "not taken any more" in await run("webhooks", "forget", "github")
    again = await reflex("webhooks", "forget", "github", folder=tmp_path, url=database_url)
    assert (again.code, "there is no webhook 'github'" in again.error) == (1, True)
