"""The page of `provfl report` in a real browser: no errors, no requests, controls that work, no accessibility fault."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provfl_cli.cli import main
from tests.made_responses import HOSTILE, spoken_run
from tests.made_runs import LABELS, whole_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `test`)")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no browser: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run with pictures, one with texts, both together, and one with responses."""
    folder = tmp_path_factory.mktemp("pages")
    whole_run(folder / "pictures", inputs=60, rounds=(4, 5), scopes=("round", "lineage"), faulty=(1,))
    whole_run(folder / "texts", inputs=30, texts=True, seed=1)
    spoken_run(folder / "spoken")
    shown = {"pictures": ["pictures"], "texts": ["texts"], "both": ["pictures", "texts"], "spoken": ["spoken"]}
    for name, places in shown.items():
        folders = [str(folder / place) for place in places]
        assert main(["report", *folders, "--out", str(folder / f"{name}.html")]) == 0
    return {name: folder / f"{name}.html" for name in shown}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Open:
    """A page, what its console said, and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | context))
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on(
            "console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.faults.append(request.url) if _goes_out(request.url) else None)
        self.page.goto(path.as_uri())

    def scrolled(self) -> Any:
        """The page after every figure has come into view."""
        for place in self.page.query_selector_all(".plot"):
            if place.is_visible():
                place.scroll_into_view_if_needed()
                self.page.wait_for_function("(one) => one.children.length", arg=place)
        return self.page

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def _goes_out(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


def cards(page: Any) -> list[str]:
    return [card.inner_text() for card in page.query_selector_all(".view:not([hidden]) .card")]


@pytest.mark.parametrize(("name", "width"), [("pictures", 1280), ("texts", 390), ("both", 390), ("spoken", 390)])
def test_every_figure_is_drawn_without_errors_requests_or_sideways_scrolling(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    with Open(browser, pages[name], viewport={"width": width, "height": 850}) as opened:
        page = opened.scrolled()
        empty = (
            "() => [...document.querySelectorAll('.plot')].filter((one) => one.offsetParent && !one.children.length)"
        )
        assert page.evaluate(f"({empty})().map((one) => one.dataset.figure)") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.faults == []


WIDE = {  # fonts that nobody has named, by what a browser lets everybody set
    "monospace": "* { font-family: monospace !important }",
    "letters far apart": "* { letter-spacing: .12em !important; word-spacing: .16em !important }",  # WCAG 1.4.12
    "twice as large": "html { font-size: 200% } body { font-size: 32px !important }",  # WCAG 1.4.4
}


@pytest.mark.parametrize("name", ["pictures", "texts", "both"])
def test_no_font_makes_the_page_scroll_sideways(browser: Any, pages: dict[str, Path], name: str) -> None:
    with Open(browser, pages[name], viewport={"width": 390, "height": 850}) as opened:
        page = opened.scrolled()
        page.evaluate("document.head.append(Object.assign(document.createElement('style'), { id: 'own' }))")
        widths = {}
        for width in (390, 320):
            page.set_viewport_size({"width": width, "height": 850})
            for font, rule in WIDE.items():
                page.evaluate("(rule) => { document.getElementById('own').textContent = rule; }", rule)
                page.wait_for_timeout(100)  # charts follow the width of their place
                widths[width, font] = page.evaluate("document.documentElement.scrollWidth")
        assert {key: page_width for key, page_width in widths.items() if page_width > key[0]} == {}


def test_a_label_that_is_a_script_shows_as_text(browser: Any, pages: dict[str, Path]) -> None:
    for name in ("pictures", "texts"):
        with Open(browser, pages[name]) as opened:
            page = opened.scrolled()
            for table in page.query_selector_all(".as-table > summary"):
                table.click()
            page.select_option("#card-label-0", label=LABELS[1])
            assert f"predicted {LABELS[1]}" in cards(page)[0]
            assert page.evaluate("document.scripts.length") == 3
            assert page.query_selector("img[src='x']") is None
            assert opened.faults == []


def test_cards_are_filtered_and_paged(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["pictures"]) as opened:
        page = opened.page
        assert len(cards(page)) == 24
        page.click("[data-step='1']")
        assert page.inner_text(".page") == "page 2 of 3"
        page.select_option("#card-right-0", "wrong")
        wrong = cards(page)
        assert len(wrong) == 15
        assert all("✗ wrong" in card for card in wrong)
        assert page.inner_text(".count") == "1 to 15 of 15 inputs that fit (60 in all)"
        page.select_option("#card-right-0", "")
        page.select_option("#card-client-0", "3")
        assert [card.splitlines()[0] for card in cards(page)] == ["Input 0"]  # tied at its top
        assert "tied" in cards(page)[0]
        page.select_option("#card-client-0", "")
        page.fill("#card-number-0", "8")
        assert [card.splitlines()[0] for card in cards(page)] == ["Input 8"]


def test_a_token_that_is_pointed_at_says_who_pushed_it(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["spoken"]) as opened:
        page = opened.page
        first, hostile = page.query_selector_all(".card")[0], page.query_selector_all(".card")[2]
        tokens, said = first.query_selector_all(".token"), first.query_selector(".token-said")
        assert [token.inner_text() for token in tokens] == ["Das", " Land", " heißt", " Deutsch", "land", "◦"]
        tokens[1].hover()
        assert said.inner_text().startswith("token 2 of 6, “ Land”: pushed by client 1 (+2)")
        first.query_selector(".response").focus()
        page.keyboard.press("End")
        assert "pushed by nobody; most against it: client" in said.inner_text()
        page.keyboard.press("ArrowLeft")
        assert said.inner_text().startswith("token 5 of 6")
        assert "1 on top of 5" in first.inner_text()
        assert HOSTILE[0] in hostile.inner_text()
        assert page.evaluate("document.scripts.length") == 3
        page.select_option("#card-tokens-0", "2")
        colours = page.eval_on_selector_all(".card:first-child .token", "all => all.map((one) => one.style.cssText)")
        assert all("--much" in colour for colour in colours)
        page.click(".card:first-child details.tokens summary")
        page.wait_for_selector(".card:first-child details.tokens tbody tr")  # filled when it is open
        rows = page.query_selector_all(".card:first-child details.tokens tbody tr")
        assert [row.query_selector_all("td")[1].inner_text() for row in rows][:5] == ["1"] * 5
        assert opened.faults == []


def test_tables_sort_by_their_headings(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["pictures"]) as opened:
        page = opened.scrolled()  # figures that are drawn above would move what is clicked
        column = ".client-table tbody tr td:nth-child(5)"
        for order in ("descending", "ascending"):
            page.click(".client-table thead th:nth-child(5) button")
            numbers = [int(cell.inner_text().replace(",", "")) for cell in page.query_selector_all(column)]
            assert numbers == sorted(numbers, reverse=order == "descending")
            assert page.get_attribute(".client-table thead th:nth-child(5)", "aria-sort") == order


def test_the_map_is_sorted_and_walked_by_keys(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["pictures"]) as opened:
        page = opened.scrolled()
        plot = "[data-figure='contributions']"
        for by, said in (("label", "input 0 ("), ("correct", "input 6 (cat taken for")):
            page.select_option("#map-inputs-0", by)
            page.focus(f"{plot} canvas")
            page.keyboard.press("ArrowRight")
            assert said in page.inner_text(f"{plot} output")
        page.keyboard.press("Enter")
        assert [card.splitlines()[0] for card in cards(page)] == ["Input 6"]
        assert page.evaluate("document.activeElement.className") == "card found"


def test_bars_of_a_card_go_left_where_a_contribution_is_negative(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["pictures"]) as opened:
        rows = opened.page.eval_on_selector_all(
            ".card .ranked tbody tr:has(.bars)",
            """rows => rows.map((row) => {
                const [bar, zero] = row.querySelectorAll("rect"), at = (name) => Number(bar.getAttribute(name));
                return [row.querySelector("td:nth-of-type(3)").textContent, at("x"), at("x") + at("width"),
                        zero ? Number(zero.getAttribute("x")) + 0.3 : null];
            })""",
        )
    seen = [(float(value), start, end, zero) for value, start, end, zero in rows if zero is not None]
    assert {value < 0 for value, *_ in seen} == {True, False}
    for value, start, end, zero in seen:
        assert (end if value < 0 else start) == pytest.approx(zero, abs=0.6), value


def test_addresses_lead_to_clients_and_inputs(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["both"]) as opened:
        page = opened.page
        page.evaluate("location.hash = '#client-1-2-4'")
        page.wait_for_function("document.getElementById('view').value === '1'")
        shown = page.inner_text("#client-1 .client-shown")
        assert "client 2 beside client 4" in shown
        assert "Of 30 predictions both push" in shown
        assert page.eval_on_selector("#client-1", "one => one.getBoundingClientRect().top") < 300
        page.evaluate("location.hash = '#input-1-8'")
        page.wait_for_selector("#input-1-8.found")
        assert [card.splitlines()[0] for card in cards(page)] == ["Input 8"]
        page.click("#input-1-8 .to-client")
        page.wait_for_function("location.hash.startsWith('#client-1-')")
        page.evaluate("location.hash = '#client-1-99'")  # nobody
        page.evaluate("location.hash = '#input-7-%3Cimg%3E'")
        page.wait_for_timeout(100)
        assert opened.faults == []


def test_tables_and_figures_can_be_taken_away(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["pictures"], accept_downloads=True) as opened:
        page = opened.scrolled()
        with page.expect_download() as saved:
            page.click("[aria-label='CSV: All clients']")
        text = Path(saved.value.path()).read_text(encoding="utf-8-sig")
        rows = [line.split(",") for line in text.splitlines()]
        assert rows[0][:2] == ["client", "planted as faulty"]
        assert len(rows) == 6
        for kind, begin in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
            with page.expect_download() as saved:
                page.click(f"[aria-label^='{kind}: Accuracy of the global model']")
            assert Path(saved.value.path()).read_bytes().startswith(begin)
        with page.expect_download() as saved:
            page.click("[aria-label^='PNG: Contributions of clients']")
        assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")
        assert opened.faults == []


def test_dark_and_light(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["pictures"], color_scheme="dark") as opened:
        page = opened.page
        theme = "document.documentElement.dataset.theme"
        assert page.evaluate(theme) == "dark"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.evaluate(theme) == "light"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_two_runs_are_compared_and_each_can_be_shown(browser: Any, pages: dict[str, Path]) -> None:
    with Open(browser, pages["both"]) as opened:
        page = opened.scrolled()
        assert "seed" in page.inner_text("#compared")
        page.select_option("#second", "0")
        assert "They have the same settings." in page.inner_text("#compared")
        page.select_option("#view", "1")
        assert not page.is_visible("#all-table")
        assert "onerror=alert(2)" in cards(page)[0]
        assert opened.faults == []


@pytest.mark.parametrize(
    ("name", "scheme"), [("pictures", "dark"), ("texts", "light"), ("both", "light"), ("spoken", "dark")]
)
def test_axe_finds_no_serious_fault(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    with Open(browser, pages[name], color_scheme=scheme, bypass_csp=True) as opened:
        page = opened.scrolled()
        violations = axe.Axe().run(page).response["violations"]
        grave = [
            (violation["id"], [node["html"][:150] for node in violation["nodes"][:3]])
            for violation in violations
            if violation["impact"] in ("serious", "critical")
        ]
        assert grave == []


def test_a_large_page_is_quick(browser: Any, tmp_path: Path) -> None:
    whole_run(tmp_path / "big", 300, 1000, tuple(map(str, range(10))), methods=("provfl",))
    assert main(["report", str(tmp_path / "big")]) == 0
    with Open(browser, tmp_path / "big" / "report.html") as opened:
        page = opened.scrolled()
        began = time.perf_counter()
        page.select_option("#map-inputs-0", "top")
        page.select_option("#card-right-0", "wrong")
        assert time.perf_counter() - began < 3
        assert len(cards(page)) == 24
        assert opened.faults == []
