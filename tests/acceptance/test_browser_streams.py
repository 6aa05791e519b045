"""A browser's own EventSource and fetch, on a page of another site than the gateway's."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page

from reflex.core.cursors import Cursor
from tests.browsers import browser, page_of, page_server
from tests.processes import eventually, free_port, gateway

# A machine without Chromium installs it first.
pytestmark = pytest.mark.timeout(400)

READ = """url => {
    window.got = [];
    new EventSource(url).onmessage = ({data}) => data && window.got.push(JSON.parse(data).payload.n);
}"""
PUBLISH = """async ([url, n]) => {
    const body = JSON.stringify({type: "ticked", payload: {n}});
    const answer = await fetch(url, {method: "POST", headers: {"content-type": "application/json"}, body});
    return answer.status;
}"""
IS_REFUSED = """url => new Promise(done => {
    const stream = new EventSource(url);
    stream.onopen = () => done(false);
    stream.onerror = () => done(true);
})"""


@asynccontextmanager
async def page_of_another_site(folder: Path) -> AsyncGenerator[tuple[Page, str]]:
    """The page, and its origin."""
    site = folder / "site"
    site.mkdir()
    (site / "index.html").write_text("<!doctype html><title>a page</title><link rel=icon href=data:,>")
    async with page_server(site, folder) as origin, browser() as launched, page_of(launched) as (page, _):
        await page.goto(origin)
        yield page, origin


async def test_an_event_source_goes_on_by_itself_after_its_gateway_was_killed(
    database_url: str, tmp_path: Path
) -> None:
    """Fails with: no CORS headers for the sites of REFLEX_ALLOWED_ORIGINS; frames without `id` (what came meanwhile is
    missed, or all comes again); an `after` in the address that counts more than `Last-Event-ID`."""
    port = free_port()
    async with page_of_another_site(tmp_path) as (page, origin):
        env = {"REFLEX_ALLOWED_ORIGINS": f"https://shop.example,{origin}"}

        async def has_read(*numbers: int) -> bool:
            return await page.evaluate("() => window.got") == list(numbers)

        async with gateway(database_url, tmp_path, port=port, env=env) as killed:
            events = f"{killed.url}/events"
            assert await page.evaluate(PUBLISH, [events, 1]) == 202
            await page.evaluate(READ, f"{events}/stream?type=ticked&after={Cursor(0, 0)}")
            assert await page.evaluate(PUBLISH, [events, 2]) == 202
            await eventually(lambda: has_read(1, 2), what="both events in the page")
            await killed.kill()
        async with gateway(database_url, tmp_path, port=port, env=env):
            assert await page.evaluate(PUBLISH, [events, 3]) == 202
            await eventually(lambda: has_read(1, 2, 3), what="the third event, and none of the first again")


async def test_a_page_of_a_site_that_is_not_allowed_reads_nothing(database_url: str, tmp_path: Path) -> None:
    """Fails with every site allowed."""
    env = {"REFLEX_ALLOWED_ORIGINS": "https://shop.example"}
    async with page_of_another_site(tmp_path) as (page, _), gateway(database_url, tmp_path, env=env) as front:
        assert await page.evaluate(IS_REFUSED, f"{front.url}/events/stream")
