"""The site of the guides: whole, in order, and made of nothing that is loaded from elsewhere."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browsers import browser, page_of, page_server
from tests.docs.site import ROOT, Page, build, copy_sources, is_outside, loads_of_style, target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    copy_sources(folder)
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / ".site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path.read_text()) for path in site.rglob("*.html")}


def test_each_guide_and_decision_is_a_page_that_the_front_page_leads_to(site: Path, pages: dict[Path, Page]) -> None:
    """Fails with: a folder that the navigation forgets, changelog fragments as pages."""
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    wanted = {(site / path).resolve() for path in written if path.parts[0] != "changelog.d"}
    assert wanted == {path for path in pages if path.name != "404.html"}
    front = (site / "index.html").resolve()
    assert wanted <= {target(front, link)[0] for link in pages[front].links if not is_outside(link)}


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    """Fails with: the theme's fonts, emoji pictures, the offline plugin."""
    loads = {address for page in pages.values() for address in page.loads if not address.startswith("#")}
    loads |= {address for style in site.rglob("*.css") for address in loads_of_style(style.read_text())}
    assert len(loads) > 3
    assert [address for address in loads if is_outside(address)] == []


def test_every_link_within_the_site_leads_somewhere(pages: dict[Path, Page]) -> None:
    """Zensical looks at links to Markdown only. Fails with: a link to a folder of examples."""
    broken = [
        f"{path.name}: {link}"
        for path, page in pages.items() if path.name != "404.html"
        for link in page.links if not is_outside(link)
        for file, anchor in [target(path, link)]
        if not file.exists() or (anchor and file in pages and anchor not in pages[file].anchors)
    ]  # fmt: skip
    assert broken == []


def test_links_that_leave_are_few(pages: dict[Path, Page]) -> None:
    leaving = {urlsplit(link).netloc for page in pages.values() for link in page.links if is_outside(link)}
    assert len(leaving) <= 8, leaving


@pytest.mark.parametrize("link", ["missing.md", "state.md#no-such-heading"])
def test_a_broken_link_fails_the_build(tmp_path: Path, link: str) -> None:
    """Fails without `--strict`, and without the validation of the configuration."""
    copy_sources(tmp_path)
    (tmp_path / "docs/guides/broken.md").write_text(f"# Broken\n\n[somewhere]({link})\n")
    built = build(tmp_path)
    assert built.returncode != 0
    assert "1 issue found" in re.sub(r"\x1b\[[0-9;]*m", "", built.stdout + built.stderr)


async def test_a_browser_asks_no_other_host_and_finds_a_word(site: Path, tmp_path: Path) -> None:
    """Also what scripts load once they run. Fails with: a font of the theme, search that is off."""
    async with page_server(site, tmp_path) as origin, browser() as chromium, page_of(chromium) as (page, complaints):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"{origin}/guides/budgets.html")
        await page.keyboard.press("/")
        await page.keyboard.type("heartbeat")
        await (
            page.get_by_role("link")
            .filter(has_text="0003")
            .or_(page.locator("a[href*='the-fence-and-the-heartbeat']:visible"))
            .first.wait_for()
        )
        assert {urlsplit(address).netloc for address in asked} == {urlsplit(origin).netloc}
        assert complaints.of_the_page == []
