"""examples/support_chat as its users have it: the page in a browser, and a console client."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import Locator, Page, WebSocketRoute, expect
from psycopg import AsyncConnection

from reflex.core.database import connect
from tests.browsers import Complaints, browser, page_of
from tests.processes import GatewayProcess, ReflexProcess, eventually, free_port, gateway, worker

# A machine without Chromium installs it first.
pytestmark = pytest.mark.timeout(400)

EXAMPLE = Path(__file__).parents[2] / "examples/support_chat"
APP = "examples.support_chat.app"
ADDRESS = "ws://localhost:8000/ws"
WHERE_IS_IT = "Where is my order A17?"
ON_ITS_WAY = "Order A17: two blue mugs, left the warehouse this morning, will be with you tomorrow."
BROKEN = "The teapot of order A18 is broken"


class PageServer(ReflexProcess):
    """`python -m http.server`, as the example's README has it."""

    program = (sys.executable,)


@dataclass(slots=True)
class Desk:
    """A copy of the example, a database, and a port for a gateway that comes and goes."""

    database_url: str
    folder: Path
    conn: AsyncConnection[Any]
    port: int
    page_port: int

    @property
    def page_url(self) -> str:
        return f"http://localhost:{self.page_port}"

    def gateway(self) -> AbstractAsyncContextManager[GatewayProcess]:
        env = {"REFLEX_ALLOWED_ORIGINS": self.page_url}
        return gateway(self.database_url, self.folder, port=self.port, env=env)

    def worker(self) -> AbstractAsyncContextManager[ReflexProcess]:
        return worker(self.database_url, self.folder, app=APP, env={"DEFAULT_MODEL": "offline"})

    @asynccontextmanager
    async def page(self, **options: Any) -> AsyncGenerator[tuple[Page, Complaints]]:
        async with browser() as launched, page_of(launched, **options) as (page, complaints):
            yield page, complaints

    async def count(self, type: str) -> int:
        cursor = await self.conn.execute("SELECT count(*) FROM reflex.event WHERE type = %s", [type])
        row = await cursor.fetchone()
        assert row
        return int(row[0])


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """The page is served; neither gateway nor worker runs yet."""
    shutil.copytree(EXAMPLE, tmp_path / "examples/support_chat")
    port, page_port = free_port(), free_port()
    page = tmp_path / "examples/support_chat/page"
    text = (page / "index.html").read_text()
    assert text.count(ADDRESS) == 1
    (page / "index.html").write_text(text.replace(ADDRESS, ADDRESS.replace("8000", str(port))))
    arguments = ("-m", "http.server", "--bind", "127.0.0.1", "--directory", str(page), str(page_port))
    server = PageServer(*arguments, folder=tmp_path, env={}, name="page")
    try:
        async with await connect(database_url, name="test") as conn, httpx2.AsyncClient() as client:

            async def is_served() -> bool:
                try:
                    return (await client.get(f"http://127.0.0.1:{page_port}/")).is_success
                except httpx2.TransportError:
                    return False

            await server.is_ready(is_served)
            yield Desk(database_url, tmp_path, conn, port, page_port)
    finally:
        await server.close()


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
    that forgets the conversation when it is loaded again."""
    async with desk.gateway(), desk.page() as (page, complaints):
        await page.goto(desk.page_url)
        await expect(page.get_by_text("Online", exact=True)).to_be_visible()
        line = await write(page, WHERE_IS_IT)
        async with desk.worker():
            # Nobody knew the type of event before the worker came.
            await is_marked(line, "Answered")
            await expect(replies(page)).to_contain_text(ON_ITS_WAY)
            broken = await write(page, BROKEN)
            await is_marked(broken, "Answered")
            await expect(replies(page)).to_have_count(3)
            await expect(replies(page).nth(1)).to_contain_text("I am sorry to hear that.")
            await expect(replies(page).nth(2)).to_contain_text(re.compile(r"Ticket *T-\d{6}"))
            await expect(page.locator("#activity")).to_be_hidden()
            await page.reload()
            await expect(page.get_by_text("Online", exact=True)).to_be_visible()
            await expect(replies(page)).to_have_count(3)
            await is_marked(lines(page).first, "Answered")
            await write(page, "<b>hello</b>")
            await expect(replies(page)).to_have_count(5)
            await expect(lines(page).last).to_contain_text("<b>hello</b>")
        assert complaints == []


async def test_a_reply_of_a_time_without_gateway_is_shown_once_after_the_page_has_come_back(desk: Desk) -> None:
    """Fails with: a page that connects without `session`, or does not connect again; a line that is forgotten because
    it was written while there was no connection."""
    async with desk.worker() as desk_worker, desk.page() as (page, complaints):
        async with desk.gateway() as killed:
            await page.goto(desk.page_url)
            await is_marked(await write(page, WHERE_IS_IT), "Answered")
            desk_worker.freeze()
            await is_marked(await write(page, "How do I return something?"), "Received")
            await killed.kill()
        await expect(page.get_by_text("Connecting again", exact=True)).to_be_visible()
        desk_worker.thaw()

        async def is_answered() -> bool:
            return await desk.count("reflex.reply") == 2

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
    swallowed: list[str] = []

    def between(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        async def lose() -> None:
            await server.close()
            await route.close(code=1011, reason="lost on the way")

        def pass_on(frame: str | bytes) -> None:
            if '"op":"published"' in str(frame) and not swallowed:
                swallowed.append(str(frame))
                losing.append(asyncio.create_task(lose()))
            elif not losing or losing[0].done():
                route.send(frame)

        server.on_message(pass_on)

    losing: list[asyncio.Task[None]] = []
    async with desk.worker(), desk.gateway(), desk.page() as (page, complaints):
        await page.route_web_socket(re.compile("/ws"), between)
        await page.goto(desk.page_url)
        line = await write(page, WHERE_IS_IT)
        await is_marked(line, "Answered")
        await is_marked(await write(page, "How can I pay?"), "Answered")
        await expect(replies(page)).to_have_count(2)
        assert len(swallowed) == 1
        assert await desk.count("ws.message") == 2
        assert complaints == []


async def test_lines_typed_into_a_console_client_are_answered(desk: Desk) -> None:
    """Fails with: a gateway that takes frames of JSON only."""
    async with desk.worker(), desk.gateway():
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
