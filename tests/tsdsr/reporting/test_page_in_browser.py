"""The page in a browser: the divider moves, tables sort, figures tell their origin, nothing is logged or fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser
from tests.tsdsr.reporting.conftest import make_workspace
from tsdsr.reporting import build

pytestmark = pytest.mark.skipif(browser.EXECUTABLE is None, reason="no Chromium here: apt-get install chromium")
SPLIT = "document.querySelector('.stage').style.getPropertyValue('--split')"
TABLE = "#table-v1-table1 tbody:nth-of-type(1)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    make_workspace(root)
    build.build(root, build.Options(2, 24, "tiny", "v1", ("wo_tsm-seed0", "wo_dasm-seed0"), "full-seed0", 3.0))
    return root / "reports/index.html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(tab: browser.Page, report: Path) -> Iterator[browser.Page]:
    """The freshly loaded page; whatever a test does, nothing may be logged, and nothing fetched but the file itself."""
    tab.errors.clear()
    tab.requests.clear()
    tab.open(report.as_uri())
    tab.run("document.querySelectorAll('section > details').forEach((part) => { part.open = true; })")
    yield tab
    tab.run("1")  # whatever was logged last comes before this answer
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [report.as_uri()]


def _split(page: browser.Page) -> float:
    return float(page.run(SPLIT).rstrip("%"))


def test_the_divider_follows_mouse_keys_and_finger(page: browser.Page) -> None:
    left, top, width, height = page.box(".stage")
    middle = top + height / 2
    assert _split(page) == 50
    page.drag((left + width * 0.5, middle), (left + width * 0.4, middle), (left + width * 0.25, middle))
    assert _split(page) == pytest.approx(25, abs=4)
    page.key("ArrowRight", "ArrowRight", 39)
    assert _split(page) == pytest.approx(26, abs=4)
    before = _split(page)
    page.swipe((left + width * 0.3, middle), (left + width * 0.5, middle), (left + width * 0.75, middle))
    assert _split(page) > before + 20


def test_the_divider_shows_one_picture_on_each_side(page: browser.Page) -> None:
    seen = "Array.from(document.querySelectorAll('#image-barn .stage img:not([hidden])'), (i) => i.dataset.version)"
    assert page.run(seen) == ["bicubic", "full"]
    assert page.run("getComputedStyle(document.querySelector('#image-barn img.is-left')).clipPath").startswith("inset(")
    page.key("7", "Digit7", 55)
    assert page.run(seen) == ["bicubic", "hq"]
    page.key("!", "Digit1", 49, shift=True)
    assert page.run(seen) == ["lq", "hq"]
    assert page.run("document.querySelector('#image-coast .tag.right').textContent") == "HQ"
    assert page.run("document.getElementById('right').value") == "hq"


def test_pictures_and_crops_are_really_decoded(page: browser.Page) -> None:
    page.run("Promise.all(Array.from(document.images, (i) => i.decode().then(() => 0)))")
    assert page.run("Array.from(document.images).every((i) => i.naturalWidth > 0)")
    assert page.run("document.querySelectorAll('#image-barn .crop-row').length") == 2


def _column(page: browser.Page, column: int) -> list[str]:
    cells = f"document.querySelectorAll('{TABLE} tr.row > :nth-child({column})')"
    values: list[str] = page.run(f"Array.from({cells}, (cell) => cell.textContent.trim())")
    return values


def test_tables_sort_better_first_then_worse_then_as_they_were(page: browser.Page) -> None:
    original = _column(page, 2)
    assert original == ["27.35", "27.77", "28.38", "26.01"]
    heading = "#table-v1-table1 thead tr:last-child th:nth-child(2)"
    page.click(f"{heading} button")
    assert _column(page, 2) == ["28.38", "27.77", "27.35", "26.01"]
    assert page.run(f"document.querySelector('{heading}').getAttribute('aria-sort')") == "descending"
    page.click(f"{heading} button")
    assert _column(page, 2) == ["26.01", "27.35", "27.77", "28.38"]
    page.click(f"{heading} button")
    assert _column(page, 2) == original


def test_lower_is_better_sorts_ascending_and_groups_stay_apart(page: browser.Page) -> None:
    groups = "Array.from(document.querySelectorAll('#table-v1-table1 tr.group'), (row) => row.textContent.trim())"
    before = page.run(groups)
    page.click("#table-v1-table1 thead tr:last-child th:nth-child(4) button")
    assert _column(page, 4) == sorted(_column(page, 4))
    assert page.run(groups) == before


def test_empty_cells_sort_last(page: browser.Page) -> None:
    column = "#table-v1-table3 thead tr:last-child th:nth-child(4) button"
    texts = (
        "Array.from(document.querySelectorAll('#table-v1-table3 tbody tr.row td:nth-child(4)'), (c) => c.textContent)"
    )
    page.click(column)
    first = page.run(texts)
    page.click(column)
    assert first[-9:] == sorted(first[-9:], key=float), "the second group holds figures only"
    assert set(first[:-9]) == {"—"}


def test_a_figure_tells_where_it_comes_from(page: browser.Page) -> None:
    card = "document.getElementById('origin')"
    assert page.run(f"{card}.hidden") is True
    page.click("#table-measured tbody tr.row td")
    assert page.run(f"{card}.hidden") is False
    text = page.run(f"{card}.innerText")
    assert "interval" in text
    assert "run-full" in text
    assert "c0ffee" in text
    page.key("Escape", "Escape", 27)
    assert page.run(f"{card}.hidden") is True


@pytest.mark.parametrize(("figure", "run"), [(".facts dd", "run-full"), ("#image-coast .scores span", "run-bicubic")])
def test_a_figure_outside_the_tables_tells_its_origin_too(page: browser.Page, figure: str, run: str) -> None:
    page.click(figure)
    assert run in page.run("document.getElementById('origin').innerText")


def test_an_empty_cell_tells_why_and_a_row_its_source(page: browser.Page) -> None:
    page.run("document.querySelector('#table-v1-table1 tbody.measured td.empty').focus()")
    assert "are absent" in page.run("document.getElementById('origin').innerText")
    page.run("document.querySelector('#table-v1-table1 tbody.measured [scope=row]').focus()")
    text = page.run("document.getElementById('origin').innerText")
    assert "Source " in text
    assert "run-full" in text


def test_a_switch_shows_the_other_version_of_the_paper(page: browser.Page) -> None:
    shown = (
        "Array.from(document.querySelectorAll('[data-version] article')).filter((t) => t.offsetHeight).map((t) => t.id)"
    )
    first = page.run(shown)
    assert first == [f"table-v1-table{number}" for number in range(1, 6)]
    page.click("input[value=v4]")
    assert page.run(shown) == [*(f"table-v4-table{number}" for number in range(1, 5)), "table-v4-base_models"]
    page.click("input[value=v1]")
    assert page.run(shown) == first


def test_a_link_to_a_folded_part_opens_it(page: browser.Page) -> None:
    page.run("document.querySelectorAll('details').forEach((part) => { part.open = false; })")
    page.click("nav a[href='#papers']")
    page.run("new Promise((done) => setTimeout(done, 50))")
    assert page.run("document.querySelector('#papers details').open") is True
    page.run("history.replaceState(null, '', location.pathname)")


def test_a_table_is_one_tab_stop_and_arrow_keys_go_through_it_as_it_is_sorted(page: browser.Page) -> None:
    table, focused = "document.querySelector('#table-measured table')", "document.activeElement"
    page.run(f"{table}.querySelector('thead tr:last-child th:nth-child(2) button').focus()")
    page.run(f"{focused}.click(), {focused}.click()")  # worse first
    seen = []
    for _ in range(2):
        page.key("ArrowDown", "ArrowDown", 40)
        seen.append(page.run(f"{focused}.textContent"))
    assert seen == ["22.00", "23.00"]
    assert "run-bicubic" in page.run("document.getElementById('origin').innerText")
    page.key("End", "End", 35)
    edges = [f"{element}.getBoundingClientRect().right" for element in (focused, f"{table}.parentElement")]
    assert page.run(f"{edges[0]} <= {edges[1]}"), "what has the focus is seen"
    page.key("Home", "Home", 36)
    page.key("ArrowRight", "ArrowRight", 39)
    assert page.run(f"{focused}.textContent") == "23.00"
    assert page.run(f"Array.from({table}.querySelectorAll('*')).filter((e) => e.tabIndex >= 0).length") == 1
    page.key("Tab", "Tab", 9)
    assert not page.run(f"{table}.contains({focused})")
    page.key("Tab", "Tab", 9, shift=True)
    assert page.run(f"{focused}.textContent") == "23.00"


def test_the_theme_changes_and_charts_with_it(page: browser.Page) -> None:
    page.run("localStorage.clear()")
    ink = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    back = "getComputedStyle(document.body).backgroundColor"
    page.click("#theme")
    light = page.run(f"[{ink}, {back}]")
    page.click("#theme")
    dark = page.run(f"[{ink}, {back}]")
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.run("localStorage.clear()")


def test_nothing_overflows_on_a_phone(page: browser.Page) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    try:
        assert page.run("document.documentElement.scrollWidth") <= 390
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_a_dark_page_is_printed_light_and_its_tables_whole(page: browser.Page) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    paper = {"width": 718, "height": 1046}  # A4 within the browser's margins
    page.call("Emulation.setDeviceMetricsOverride", **paper, deviceScaleFactor=1, mobile=False)
    try:
        page.call("Emulation.setEmulatedMedia", media="screen", features=dark)
        ink = "getComputedStyle(document.body).color"
        on_screen = page.run(ink)
        page.call("Emulation.setEmulatedMedia", media="print", features=dark)
        assert page.run(ink) == "rgb(34, 39, 46)" != on_screen
        assert page.run("getComputedStyle(document.querySelector('#table-v1-table4 .scroll')).maskImage") == "none"
        assert page.run("document.documentElement.scrollWidth") <= 718
    finally:
        page.call("Emulation.setEmulatedMedia", media="", features=[])
        page.call("Emulation.clearDeviceMetricsOverride")


def test_a_wide_table_fades_where_it_goes_on_and_no_longer_at_its_end(page: browser.Page) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=600, height=800, deviceScaleFactor=1, mobile=False)
    try:
        _fades(page)
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def _fades(page: browser.Page) -> None:
    box = "document.querySelector('#table-v1-table4 .scroll')"
    soon = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => {})"
    page.run(soon)
    assert page.run(f"{box}.classList.contains('more')")
    page.run(f"{box}.scrollTo({{left: 99999, behavior: 'instant'}})")
    page.run(soon)
    assert not page.run(f"{box}.classList.contains('more')")


def test_a_picture_is_seen_whole_in_a_low_window(page: browser.Page) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=1200, height=400, deviceScaleFactor=1, mobile=False)
    try:
        _, _, width, height = page.box(".stage")
        assert width == pytest.approx(height, abs=1)  # as the picture is
        assert 200 < height < 400
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_a_groups_name_stays_when_its_table_is_scrolled(page: browser.Page) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    try:
        page.run("document.querySelector('#table-v1-table1 .scroll').scrollTo({left: 300, behavior: 'instant'})")
        left, _, _, _ = page.box("#table-v1-table1 .group span")
        assert 0 < left < 100
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_the_default_versions_crops_stand_beside_each_other_without_scrolling(page: browser.Page) -> None:
    assert page.run("document.querySelectorAll('#image-barn .crop-row:first-child figure').length") == 7
    rows = "Array.from(document.querySelectorAll('.crop-row'), (row) => row.scrollWidth - row.clientWidth)"
    assert set(page.run(rows)) == {0}
