"""A real browser for tests: Chromium, driven by Playwright, and what its pages complained about."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from tests.debian import debian_program
from tests.processes import ReflexProcess, free_port

__all__ = ["Complaints", "browser", "page_of", "page_server"]

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS: Final = 20_000
# The browser writes these itself, whatever the page does about it.
ABOUT_THE_NETWORK: Final = ("net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET", "net::ERR_SOCKET_NOT_CONNECTED")


class Complaints(list[str]):
    """What a page wrote to the console as a warning or an error, and exceptions that nothing caught."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", self._note)

    @property
    def of_the_page(self) -> list[str]:
        """Without what the browser says of a server that is away."""
        return [text for text in self if not any(cause in text for cause in ABOUT_THE_NETWORK)]

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.append(message.text)


class PageServer(ReflexProcess):
    """`python -m http.server`: pages of another site than the gateway's."""

    program = (sys.executable,)


@asynccontextmanager
async def browser() -> AsyncGenerator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield launched
        finally:
            await launched.close()


@asynccontextmanager
async def page_of(browser: Browser, **options: Any) -> AsyncGenerator[tuple[Page, Complaints]]:
    """A page in a profile of its own; `options` are those of `Browser.new_context`."""
    context = await browser.new_context(**options)
    try:
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        yield page, Complaints(page)
    finally:
        await context.close()


@asynccontextmanager
async def page_server(page: Path, folder: Path) -> AsyncGenerator[str]:
    """Serve the pages of a folder; the origin that they then have. `folder` is where the server writes its log."""
    port = free_port()
    arguments = ("-m", "http.server", "--bind", "127.0.0.1", "--directory", str(page), str(port))
    server = PageServer(*arguments, folder=folder, env={}, name="page")
    try:
        async with httpx2.AsyncClient() as client:

            async def answers() -> bool:
                with suppress(httpx2.TransportError):
                    return (await client.get(f"http://127.0.0.1:{port}/")).is_success
                return False

            await server.is_ready(answers)
        yield f"http://localhost:{port}"
    finally:
        await server.close()


@cache
def chromium() -> str:
    """The browser's path. A fresh machine gets it installed; one that is somebody's own is left as it is."""
    found = debian_program("chromium", *NAMES)
    if found is None:
        pytest.fail("there is no Chromium on the PATH: install it, as in `apt-get install chromium`", pytrace=False)
    return found
