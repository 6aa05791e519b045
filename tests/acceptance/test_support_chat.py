"""examples/support_chat as its users have it: the page in a browser, and a console client."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, WebSocketRoute, expect
from psycopg import AsyncConnection

from reflex.core.database import connect
from tests.browsers import Complaints, browser, page_of, page_server
from tests.processes import GatewayProcess, ReflexProcess, eventually, free_port, gateway, worker

# A machine without Chromium installs it first.
pytestmark = pytest.mark.timeout(400)

EXAMPLE = Path(__file__).parents[2] / "examples/support_chat"
APP = "examples.support_chat.app"
ADDRESS = "ws://localhost:8000/ws"
WHERE_IS_IT = "Where is my order A17?"
ON_ITS_WAY = "Order A17: two blue mugs, left the warehouse this morning, will be with you tomorrow."
BROKEN = "The teapot of order A18 is broken"


@dataclass(slots=True)
class Desk:
    """The example, served and worked for; the gateways come and go, on one port."""

    database_url: str
    folder: Path
    port: int
    page_url: str
    worker: ReflexProcess
    browser: Browser
    conn: AsyncConnection[Any]

    def gateway(self) -> AbstractAsyncContextManager[GatewayProcess]:
        env = {"REFLEX_ALLOWED_ORIGINS": self.page_url}
        return gateway(self.database_url, self.folder, port=self.port, env=env)

    @asynccontextmanager
    async def page(self) -> AsyncGenerator[tuple[Page, Complaints]]:
        """A customer's, who has never been here."""
        async with page_of(self.browser) as (page, complaints):
            yield page, complaints

    async def count(self, type: str, content: str) -> int:
        """Events of a type in the conversation that has the line."""
        cursor = await self.conn.execute(
            "SELECT count(*) FROM reflex.event WHERE type = %(type)s AND key IN"
            " (SELECT key FROM reflex.event WHERE type = 'ws.message' AND payload->>'content' = %(content)s)",
            {"type": type, "content": content},
        )
        row = await cursor.fetchone()
        assert row
        return int(row[0])


@pytest.fixture(scope="module")
async def desk(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    folder, url = tmp_path_factory.mktemp("desk"), shared_database_url
    shutil.copytree(EXAMPLE, folder / "examples/support_chat")
    port = free_port()
    page = folder / "examples/support_chat/page"
    text = (page / "index.html").read_text()
    assert text.count(ADDRESS) == 1
    (page / "index.html").write_text(text.replace(ADDRESS, ADDRESS.replace("8000", str(port))))
    async with (
        browser() as launched,
        page_server(page, folder) as page_url,
        worker(url, folder, app=APP, env={"DEFAULT_MODEL": "offline"}) as running,
        await connect(url, name="test") as conn,
    ):
        yield Desk(url, folder, port, page_url, running, launched, conn)


@contextmanager
def frozen(process: ReflexProcess) -> Generator[None]:
    process.freeze()
    try:
        yield
    finally:
        process.thaw()


async def write(page: Page, text: str) -> Locator:
    """Type it and press Enter; the line as the page shows it."""
    await page.get_by_label("Your message").fill(text)
    await page.keyboard.press("Enter")
    return lines(page).filter(has_text=text)


def lines(page: Page) -> Locator:
    return page.locator("li.line")


def replies(page: Page) -> Locator:
    return page.locator("li.reply")


async def is_marked(line: Locator, meaning: str) -> None:
    await expect(line.get_by_role("img", name=meaning, exact=True)).to_be_visible()


async def test_a_question_is_received_and_answered_and_trouble_gets_a_ticket(desk: Desk) -> None:
    """Fails with: replies that do not reach the connection; published events that do not inherit `reply_to`; a page
    that forgets the conversation when it is loaded again, or takes what was written for HTML."""
    async with desk.gateway(), desk.page() as (page, complaints):
        await page.goto(desk.page_url)
        await expect(page.get_by_text("Online", exact=True)).to_be_visible()
        await is_marked(await write(page, WHERE_IS_IT), "Answered")
        await expect(replies(page)).to_contain_text(ON_ITS_WAY)
        await is_marked(await write(page, BROKEN), "Answered")
        await expect(replies(page)).to_have_count(3)
        await expect(replies(page).nth(1)).to_contain_text("I am sorry to hear that.")
        await expect(replies(page).nth(2)).to_contain_text(re.compile(r"Ticket *T-\d{6}"))
        await expect(page.locator("#activity")).to_be_hidden()
        await page.reload()
        await expect(page.get_by_text("Online", exact=True)).to_be_visible()
        await expect(replies(page)).to_have_count(3)
        await is_marked(lines(page).first, "Answered")
        await is_marked(await write(page, "<b>hello</b>"), "Answered")
        assert complaints == []


async def test_a_reply_of_a_time_without_gateway_is_shown_once_after_the_page_has_come_back(desk: Desk) -> None:
    """Fails with: a page that connects without `session`, or does not connect again; a line that is forgotten because
    it was written while there was no connection."""
    question = "How do I return something?"
    async with desk.page() as (page, complaints):
        async with desk.gateway() as killed:
            await page.goto(desk.page_url)
            await is_marked(await write(page, WHERE_IS_IT), "Answered")
            with frozen(desk.worker):
                await is_marked(await write(page, question), "Received")
                await killed.kill()
                await expect(page.get_by_text("Connecting again", exact=True)).to_be_visible()

        async def is_answered() -> bool:
            return await desk.count("reflex.reply", question) == 2

        await eventually(is_answered, what="a reply while there is no gateway")
        meanwhile = await write(page, "Do you ship to Iceland?")
        await is_marked(meanwhile, "Waiting to be sent")
        async with desk.gateway():
            await is_marked(meanwhile, "Answered")
            await expect(page.get_by_text("Online", exact=True)).to_be_visible()
            # Replies come in order, so one that came twice would be here by now.
            await expect(replies(page)).to_have_count(3)
            await expect(replies(page).nth(1)).to_contain_text("You can return anything within 30 days.")
            await expect(replies(page).nth(2)).to_contain_text("Delivery takes two working days")
        assert complaints.of_the_page == []


async def test_a_line_whose_acknowledgement_is_lost_is_sent_again_and_stored_once(desk: Desk) -> None:
    """Fails with: lines sent without an id of their own, or under a new one after a reconnect."""
    losing: list[asyncio.Task[None]] = []

    def between(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        async def lose() -> None:
            await server.close()
            await route.close(code=1011, reason="lost on the way")

        def pass_on(frame: str | bytes) -> None:
            if '"op":"published"' in str(frame) and not losing:
                losing.append(asyncio.create_task(lose()))
            elif not losing or losing[0].done():
                route.send(frame)

        server.on_message(pass_on)

    question = "How can I pay?"
    async with desk.gateway(), desk.page() as (page, complaints):
        await page.route_web_socket(re.compile("/ws"), between)
        await page.goto(desk.page_url)
        await is_marked(await write(page, question), "Answered")
        await is_marked(await write(page, "Hello"), "Answered")
        await expect(replies(page)).to_have_count(2)
        assert len(losing) == 1
        assert await desk.count("ws.message", question) == 2
        assert complaints == []


async def test_what_the_agent_does_is_shown_while_it_does_it(desk: Desk) -> None:
    """Fails with: a page that does not ask for progress, or shows something else than what a run says."""
    held: list[str | bytes] = []
    routes: list[WebSocketRoute] = []

    def between(route: WebSocketRoute) -> None:
        # Here an answer takes milliseconds; a model's gives the reader the time to see what comes before it.
        routes.append(route)
        server = route.connect_to_server()
        server.on_message(lambda frame: held.append(frame) if '"op":"reply"' in str(frame) else route.send(frame))

    async with desk.gateway(), desk.page() as (page, complaints):
        await page.route_web_socket(re.compile("/ws"), between)
        await page.goto(desk.page_url)
        line = await write(page, WHERE_IS_IT)
        await expect(page.get_by_role("status").filter(has_text="Looking up the order")).to_be_visible()
        await is_marked(line, "Received")
        await eventually(lambda: held, what="the reply")
        routes[0].send(held[0])
        await is_marked(line, "Answered")
        await expect(page.locator("#activity")).to_be_hidden()
        assert complaints == []


async def test_lines_typed_into_a_console_client_are_answered(desk: Desk) -> None:
    """Fails with: a gateway that takes frames of JSON only."""
    async with desk.gateway():
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "websockets", f"ws://127.0.0.1:{desk.port}/ws",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert client.stdin
        assert client.stdout
        stdout, heard = client.stdout, bytearray()

        async def hears(pattern: bytes) -> None:
            while not re.search(pattern, heard):
                more = await stdout.read(65536)
                assert more, f"the client ended; it had heard {heard!r}"
                heard.extend(more)

        try:
            async with asyncio.timeout(20):
                await hears(b'"op":"welcome"')
                client.stdin.write(f"{WHERE_IS_IT}\n".encode())
                await hears(re.escape(ON_ITS_WAY.encode()))
                client.stdin.write(f"{BROKEN}\n".encode())
                await hears(rb'"ticket": *"T-\d{6}"')
        finally:
            client.stdin.close()
            await client.wait()
