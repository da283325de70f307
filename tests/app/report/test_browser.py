"""The report in a real browser: quiet, self-contained, every plot drawn, on every screen."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.app.report import browser as module
from tests.app.report.browser import Browser, browser
from tests.app.report.comparisons import EVIL, classify, forecast, text

from cellwright.app.report import write_report
from cellwright.app.training.results import Comparison

TASKS: dict[str, Callable[[], Comparison]] = {
    "classify": classify,
    "forecast": forecast,
    "text": text,
}

CANVASES = """
    return [...document.querySelectorAll("canvas")].map((canvas) => {
        const { width, height } = canvas;
        const pixels = new Uint32Array(
            canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer);
        return {
            name: (canvas.closest("[aria-label]") || canvas).getAttribute("aria-label"),
            colours: new Set(pixels).size,
            lit: pixels.filter((pixel) => pixel >>> 24).length / pixels.length,
        };
    });
"""


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reports")
    for name, make in TASKS.items():
        write_report(folder / f"{name}.html", make())
    many = classify(tuple(f"class {number}" for number in range(40)))
    write_report(folder / "many.html", many)
    return {path.stem: path.as_uri() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [(name, *screen) for name in TASKS for screen in ((375, True), (1280, False))]
    + [("many", 375, False)],
)
def test_every_plot_is_drawn(
    chrome: Browser, pages: dict[str, str], name: str, width: int, dark: bool
) -> None:
    chrome.show(pages[name], width=width, dark=dark)
    assert chrome.ask("return document.documentElement.dataset.drawn") == "yes"
    found = chrome.ask(CANVASES)
    charts = {"classify": 3, "forecast": 4, "text": 3, "many": 4}[name]
    maps = {"classify": 1 + 1 + 4 + 6 + 2 * 4 + 3, "forecast": 1 + 4 + 6, "text": 6 + 3}
    assert len(found) == charts + maps.get(name, maps["classify"])
    for canvas in found:
        assert canvas["colours"] > 1, canvas
        assert canvas["lit"] > 0.005, canvas
    scrolls = "const root = document.documentElement; return root.scrollWidth - root.clientWidth"
    assert chrome.ask(scrolls) == 0
    assert width > 375 or chrome.ask("return document.documentElement.clientWidth") == 375
    paper = chrome.ask("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == dark
    assert chrome.errors() == []
    assert chrome.requests() == [pages[name]]


def test_the_scheme_changes_while_the_page_is_open(chrome: Browser, pages: dict[str, str]) -> None:
    chrome.show(pages["forecast"])
    script = "return [...document.querySelectorAll('canvas')].map((one) => one.toDataURL())"
    light = chrome.ask(script)
    chrome.switch(dark=True)
    dark = chrome.ask(script)
    gates = chrome.ask(
        "return [...document.querySelectorAll('canvas')].map((one) => one.closest('figure.panel')"
        "?.querySelector('.role').textContent.includes('gate') || false)"
    )
    assert [a == b for a, b in zip(light, dark, strict=True)] == gates  # gates look alike in both


def test_a_model_is_chosen_with_the_keyboard(chrome: Browser, pages: dict[str, str]) -> None:
    chrome.show(pages["classify"])
    table = "return document.querySelector('.confusion').innerText"
    before = chrome.ask(table)
    chrome.press("input[name=confusion]:checked", "\ue014")  # arrow right
    assert chrome.ask(table) != before
    shown = (
        "return [...document.querySelectorAll('.network:not([hidden]) h3')].map(h => h.innerText)"
    )
    assert [heading.split()[0] for heading in chrome.ask(shown)] == ["Bi-GRU"]
    chrome.press("input[name=inside]:checked", "\ue012")  # arrow left
    assert [heading.split()[0] for heading in chrome.ask(shown)] == ["LSTM"]
    assert chrome.errors() == []


def test_names_are_text_in_the_page(chrome: Browser, pages: dict[str, str]) -> None:
    chrome.show(pages["classify"])
    heads = "return [...document.querySelectorAll('.confusion thead th')].map(h => h.textContent)"
    assert chrome.ask(heads) == ["a", EVIL, "c"]
    assert chrome.ask("return window.broken") is None
    chrome.show(pages["forecast"])
    options = "return [...document.querySelectorAll('#view option')].map(o => o.textContent)"
    assert chrome.ask(options)[1] == f"north: {EVIL}"
    assert chrome.ask("return window.broken") is None


def test_maps_are_read_with_the_keyboard(chrome: Browser, pages: dict[str, str]) -> None:
    chrome.show(pages["classify"])
    read = "return document.querySelector('[data-readout=inside]').textContent"
    chrome.press(".network:not([hidden]) [data-map]", "\ue014")
    first = chrome.ask(read)
    assert first.startswith("r_t of unit ")
    assert " at step 2: " in first
    chrome.press(".network:not([hidden]) [data-map]", "\ue014", "\ue015")
    assert " at step 3: " in chrome.ask(read)
    assert chrome.ask(read) != first


def test_forecasts_zoom_and_change(chrome: Browser, pages: dict[str, str]) -> None:
    chrome.show(pages["forecast"])
    image = "return document.querySelector('#forecast canvas').toDataURL()"
    seen = {chrome.ask(image)}
    for act in (
        lambda: chrome.press("#forecast", "+"),
        lambda: chrome.press("#forecast", "\ue012"),
        lambda: chrome.press("[data-zoom=in]", "\n"),
        lambda: chrome.press("[data-zoom=right]", "\n"),
        lambda: chrome.press("#ahead", "2"),
        lambda: chrome.press("input[name=forecast]:checked", "\ue014"),
        lambda: chrome.press("#view", "s"),
    ):
        act()
        chrome.settle()
        seen.add(chrome.ask(image))
    assert len(seen) >= 7
    assert "four of five true values" in chrome.ask("return document.body.innerText")
    assert chrome.errors() == []


def test_surprise_marks_characters(chrome: Browser, pages: dict[str, str]) -> None:
    chrome.show(pages["text"])
    shown = (
        "return [...document.querySelectorAll('#passage span')].map(s => s.textContent).join('')"
    )
    passage = chrome.ask(shown)
    assert set(passage) == set(text().problem.schema.vocabulary)  # markup among them
    tones = "return [...document.querySelectorAll('#passage span')].map(s => s.style.cssText)"
    assert len(set(chrome.ask(tones))) > 10


def test_without_a_browser_a_test_is_skipped_but_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="chromium"), module.browser():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="chromedriver"), module.browser():
        pass


def test_the_file_needs_nothing_beside_it(tmp_path: Path, chrome: Browser) -> None:
    write_report(tmp_path / "alone.html", text())
    assert [path.name for path in tmp_path.iterdir()] == ["alone.html"]
    chrome.show((tmp_path / "alone.html").as_uri())
    assert chrome.ask("return performance.getEntriesByType('resource').length") == 0
