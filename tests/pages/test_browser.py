"""The pages in a real browser: nothing is fetched, everyone can read them, tables sort."""

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from drawn_run import CLASSES, draw_run

from xraycomp import report
from xraycomp.data.files import write_csv, write_json
from xraycomp.remote.ledger import COLUMNS, add_rows

PAGES = ("run", "bare", "findings", "overview", "study")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no chromium on this machine to look at pages with")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with everything, one with the least, one of findings, and the page that compares."""
    root = tmp_path_factory.mktemp("runs")
    full = draw_run(root / "full <i>run", judged_by_all=True, pictures=40)
    bare = draw_run(root / "bare", finished=False, lr=0.3)
    many = tuple(f"Finding_{n}" for n in range(14))
    findings = draw_run(
        root / "findings", task="multilabel", slug="findings-demo", classes=many, pictures=6
    )
    for seed, (rate, strength) in enumerate([(0.1, 3.0), (0.001, 1.0), (0.03, 1.5)]):
        draw_run(root / f"run-{seed}", seed=seed, strength=strength, lr=rate, epochs=20 - seed)
    ledger = pd.DataFrame(columns=list(COLUMNS), dtype=str)
    rows = [
        {"competition": "drawn-demo", "run": run, "file": run, "sha256": run, "metric": "macro_f1",
         "val_score": f"{value}", "val_score_low": f"{value - 0.05}",
         "val_score_high": f"{value + 0.05}", "public_score": public, "ref": run[-1]}
        for run, value, public in (("run-0", 0.9, "0.8"), ("run-1", 0.5, "0.53"),
                                   ("<i>run-2", 0.7, "0.71"))
    ]  # fmt: skip
    write_csv(root / "ledger.csv", add_rows(ledger, rows))
    for path in (full, bare, findings):
        report.main([str(path)])
    runs = [str(path) for path in sorted(root.iterdir()) if path.is_dir()]
    report.main([*runs, "--submissions-dir", str(root)])
    study = draw_study(root / "study <i>")
    report.main([str(study)])
    found = {"run": full, "bare": bare, "findings": findings, "overview": root}
    return {
        **{name: path / "report.html" for name, path in found.items()},
        "study": study / "study.html",
    }


def draw_study(folder: Path) -> Path:
    """A search of 30 trials, some pruned, failed or at work, whose best has the middle rate."""
    trials: list[dict[str, Any]] = []
    best = None
    for number in range(30):
        state = {3: "failed", 29: "waiting", 28: "running"}.get(number, "complete")
        state = "pruned" if number % 4 == 2 and state == "complete" else state
        rate = 10 ** (-4 + number % 9 / 4)
        value = 0.9 - abs(number % 9 - 4) / 50 + number / 10_000
        if state == "complete":
            best = max(value, best or 0)
        trials.append(
            {
                "number": number,
                "state": state,
                "params": {"lr": rate, "arch": "<i>net" if number % 2 else "a" * 40},
                "value": None if state in ("failed", "waiting") else value,
                "best": best,
                "epochs": 6,
                "seconds": 90.0,
                "reason": "It ran out of <b>memory</b>." * (state == "failed"),
                "run": f"trial-{number:04d}",
            }
        )
    complete = [trial for trial in trials if trial["state"] == "complete"]
    study = {
        "study": folder.name,
        "title": "A <script>alert('x')</script> search",
        "monitor": "val_macro_f1",
        "minimized": False,
        "sampler": "tpe",
        "pruner": "asha",
        "planned": 30,
        "fields": ["lr", "arch"],
        "best": max(complete, key=lambda one: one["value"])["number"],
        "importances": {"lr": 0.8, "arch": 0.2},
        "combinations": [{"params": {"lr": 0.1}, "n": 3, "mean": 0.8, "sd": None}],
        "go_on": "python -m xraycomp.search --study 'study <i>'",
        "trials": trials,
    }
    write_json(folder / "study.json", study)
    return folder


@pytest.fixture
def look(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Open a page; whatever it says or asks for in the end must be nothing but itself."""
    opened = []

    def _look(name: str, width: int = 1280, scheme: str = "light", media: str = "screen") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("a dialog"), dialog.dismiss()))
        page.route("**/*", lambda route: (asked.append(route.request.url), route.continue_()))
        page.emulate_media(media=media, color_scheme=scheme)
        address = pages[name].as_uri()
        page.goto(address)
        opened.append((context, address, said, asked))
        return page

    yield _look
    for context, address, said, asked in opened:
        context.close()
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [address]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_its_text_can_be_read(look, name, width, scheme):
    page = look(name, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # Nothing sticks out of the window but what scrolls by itself.
    assert page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.outerHTML.slice(0, 80))"""
    ) == []  # fmt: skip
    assert page.evaluate(CONTRAST) == []


CONTRAST = """() => {
  // Texts whose contrast with what is behind them is below WCAG's AA (1.4.3).
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const found = rgba(getComputedStyle(e).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255, 255];
  };
  const low = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, title")) continue;
    const style = getComputedStyle(element), svg = element.closest("svg");
    const [one, other] = [rgba(svg ? style.fill : style.color), behind(element)].map(luminance);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) low.push([ratio, walker.currentNode.data.trim()]);
  }
  // Lines need 3 (1.4.11).
  for (const line of document.querySelectorAll("svg .line, svg .run, svg .error")) {
    const [one, other] = [rgba(getComputedStyle(line).stroke), behind(line)].map(luminance);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < (line.matches(".run") ? 1.4 : 3)) low.push([ratio, line.getAttribute("class")]);
  }
  return low;
}"""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_in_order_for_a_screen_reader(look, name):
    page = look(name)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for selector in ("header", "main", "footer"):
        assert page.locator(f"body > {selector}").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title()
    wanted = {
        "table:not(:has(> caption))": "a caption",
        "th:not([scope])": "a scope",
        "tbody tr:not(:has(th[scope=row]))": "a heading",
        "img:not([alt]), img[alt='']": "an alternative text",
        "svg:not([aria-hidden=true]):not([role=img][aria-label])": "words",
        "[role=group]:not([aria-label]):not([aria-labelledby])": "a name",
        "section:not([aria-labelledby])": "a name",
        ".scroll:not([tabindex='0'])": "a place in the order of tabs",
    }
    for selector, lacked in wanted.items():
        texts = page.locator(selector).evaluate_all("all => all.map(e => e.outerHTML.slice(0, 99))")
        assert texts == [], f"without {lacked}"
    identifiers = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(identifiers) == len(set(identifiers))
    named = page.evaluate(
        """[...document.querySelectorAll("[aria-labelledby]")]
            .map(e => e.getAttribute("aria-labelledby"))"""
    )
    linked = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(e => e.hash.slice(1))"
    )
    assert {*named, *linked} <= set(identifiers)


def test_the_keyboard_reaches_the_content_and_shows_where_it_is(look):
    page = look("run")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def column(page: Any, table: str, index: int) -> list[str]:
    rows = page.locator(f"{table} tbody tr")
    return [
        rows.nth(n).locator("th, td").nth(index).inner_text().split("\n")[0].split(" ")[0]
        for n in range(rows.count())
    ]


def test_tables_sort_by_click_and_by_keyboard_and_numbers_as_numbers(look):
    page, table = look("run"), "#slices table"
    head = page.locator(f"{table} thead th", has_text="images")
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, table, 4) == ["0.710", "0.840", "0.930", "0.950", "0.970"]  # worst first
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, table, 2) == ["1,020", "101", "80", "70", "9"]
    assert column(page, table, 1) == ["M", "F", "PA", "<i>images_001</i>", "AP"]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, table, 2) == ["9", "70", "80", "101", "1,020"]
    others = page.locator(f"{table} thead th[aria-sort]:not([aria-sort=none])")
    assert others.count() == 1
    page.locator(f"{table} thead th", has_text="by").first.get_by_role("button").focus()
    page.keyboard.press("Space")
    assert column(page, table, 0) == ["folder", "sex", "sex", "view", "view"]


def test_runs_sort_by_score_and_link_to_their_own_pages(look, pages):
    page, table = look("overview"), "#group-1 table.runs"
    scores = [float(text) for text in column(page, table, 1)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 4
    heads = page.locator(f"{table} thead th")
    texts = heads.evaluate_all("all => all.map(head => head.textContent)")
    for name in ("lr", "epochs"):
        index = texts.index(name)
        for _ in range(2):
            heads.nth(index).get_by_role("button").click()
            values = [float(text) for text in column(page, table, index)]
            up = heads.nth(index).get_attribute("aria-sort") == "ascending"
            assert values == sorted(values, reverse=not up)
    links = page.locator(f"{table} a")
    assert sorted(links.all_inner_texts()) == ["full <i>run", "run-0", "run-1", "run-2"]
    for link in links.evaluate_all("all => all.map(a => a.href)"):
        assert Path(unquote(urlsplit(link).path)).is_file()
    own = page.get_by_role("link", name="full <i>run")
    assert own.evaluate("a => a.href") == pages["run"].as_uri()


def test_names_come_out_as_they_are(look):
    page = look("run")
    text = page.inner_text("body")
    for name in (
        *CLASSES,
        "A demo & its <films>",
        "full <i>run",
        "<b>film</b> 0",
        "AP & lying",
    ):
        assert name in text
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("b, i").filter(has_text=re.compile("^film$|^run$")).count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_on_paper_a_page_is_light_whole_and_fits(look, name):
    # A4 less the margins, at 96 pixels an inch; what compares lies crosswise.
    width = 1016 if name == "overview" else 688
    page = look(name, width, "dark", "print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("nav").evaluate_all("all => all.filter(e => e.offsetHeight)") == []
    hidden = page.locator("details table").evaluate_all("all => all.filter(e => !e.offsetHeight)")
    assert hidden == []
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")


def test_a_page_with_a_full_gallery_stays_small(pages, look):
    assert pages["run"].stat().st_size < 5_000_000
    page = look("run")
    pictures = page.locator(".gallery img")
    assert pictures.count() == 80
    loaded = pictures.evaluate_all("all => all.filter(e => e.complete && e.naturalWidth >= 200)")
    assert len(loaded) == 80


def test_the_policy_lets_nothing_in(browser, pages):
    page, asked, refused = browser.new_page(), [], []
    page.route("http*://**", lambda route: (asked.append(route.request.url), route.abort()))
    page.on("console", lambda message: refused.append(message.text))
    page.goto(pages["run"].as_uri())
    page.evaluate(
        """() => {
          for (const [tag, key] of [["img", "src"], ["script", "src"], ["link", "href"]]) {
            const element = document.createElement(tag);
            element[key] = "https://example.org/x"; element.rel = "stylesheet";
            document.body.append(element);
          }
          document.body.insertAdjacentHTML("beforeend", "<p style='color: red' onclick='1'>x</p>");
          const script = document.createElement("script");
          script.textContent = "document.title = 'changed'"; document.body.append(script);
          return fetch("https://example.org/x").catch(() => 0);
        }"""
    )
    page.wait_for_timeout(200)
    assert asked == []
    assert len(refused) >= 5 and all("Content Security Policy" in text for text in refused)
    assert page.title() != "changed"
    page.close()


def test_a_study_shows_its_trials_best_first_and_why_some_failed(look):
    page = look("study")
    rows = page.locator("#trials tbody tr").all_inner_texts()
    assert len(rows) == 28  # without the one that failed and the one that waits
    complete = [row for row in rows if "complete" in row]
    values = [float(row.split()[1]) for row in complete]
    assert values == sorted(values, reverse=True)
    assert rows[: len(complete)] == complete
    assert "It ran out of <b>memory</b>." in page.locator("#failed").inner_text()
    # One dot a trial with a score, and as many in each slice.
    assert page.locator("#progress circle").count() == 27
    assert [plot.locator("circle").count() for plot in page.locator("#slices figure").all()] == [
        27,
        27,
    ]
    # Names that have no room below the axis have numbers there, and a key.
    assert f"1 <i>net, 2 {'a' * 40}" in page.locator("#slices").inner_text()
