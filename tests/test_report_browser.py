"""The page in headless Chromium: no error, no request, and what people do with it works by pointer and keyboard."""

from __future__ import annotations

import json

import pytest

from benchmarks.browser import chromium as start_chromium
from benchmarks.browser import missing
from benchmarks.synthetic_sweep import ONE_BLOCK, write_run, write_sweep
from brsweep.report.figures.build import figures
from brsweep.report.notices import notices
from brsweep.report.page import page
from brsweep.report.results import judge
from brsweep.report.rows import cohorts
from brsweep.report.runs import read_sweeps

pytestmark = pytest.mark.system
GRID = [
    {"seed": seed, "bits": bits, "reg.lambda_act": value} for seed in (1, 2) for bits in (2, 4) for value in (0.1, 1.0)
]
HOSTILE = "<img src=x onerror=window.hit=1>"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "made"
    write_sweep(folder, GRID, sites=ONE_BLOCK)
    write_run(folder, {"seed": 3}, state="failed", name=HOSTILE)
    runs, twice = read_sweeps([folder])
    tables = [judge(cohort) for cohort in cohorts(runs)]
    file = folder / "index.html"
    file.write_text(page("made", tables, figures(tables), notices(tables, twice)))
    return file


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if fault := missing():
        pytest.skip(fault)
    with start_chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.implicitly_wait(10)  # seconds for what a click or a key leads to
        yield driver


@pytest.fixture
def browser(chromium, path):
    """At the page, freshly opened, with the logs of what came before gone."""
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    chromium.get(path.as_uri())
    return chromium


def column(browser, table: str, number: int) -> list[str]:
    rows = "[...document.querySelectorAll(`#${arguments[0]} tbody tr`)].filter(row => !row.hidden)"
    script = f"return {rows}.map(row => row.cells[arguments[1]].textContent)"
    return browser.execute_script(script, table, number)


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def resize(browser, width: int, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def test_it_opens_without_an_error_and_asks_nothing_of_the_network(browser, path):
    browser.execute_script("location.hash = 'run-0'")
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert not browser.get_log("browser")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert sent and {url for url in sent if not url.startswith("data:")} == {path.as_uri()}


def test_figures_are_drawn_with_values(browser):
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.panels')].map(p => p.querySelectorAll('svg').length)"
    )
    assert drawn and all(drawn)
    assert not browser.execute_script(
        "return [...document.querySelectorAll('svg')].some(s => /NaN|Infinity/.test(s.outerHTML))"
    )
    find(browser, "#figure-accuracy-lambda_act summary").click()
    first = find(browser, "#figure-accuracy-lambda_act tbody tr").text
    assert "0.1" in first and "to" in first


def test_differences_stand_on_their_side_of_zero_and_beside_their_figures(browser, tmp_path):
    lsq, folder = {"reg.lambda_weight": 0.0, "reg.lambda_act": 0.0}, tmp_path / "made"
    for seed in (1, 2, 3):
        for changes, test in ((lsq, 0.5), ({}, 0.4 + seed / 1000), ({"reg.lambda_act": 0.5}, 0.55 + seed / 200)):
            write_run(folder, changes | {"seed": seed}, result={"test_accuracy": test, "val_accuracy": test})
    tables = [judge(cohort) for cohort in cohorts(read_sweeps([folder])[0])]
    (tmp_path / "made.html").write_text(page("made", tables, figures(tables), []))
    for width in (360, 1280):
        resize(browser, width)
        browser.get((tmp_path / "made.html").as_uri())
        assert not browser.get_log("browser")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        rows = browser.find_elements("css selector", "#figure-differences .forest tbody tr:has(th)")
        told = {row.text.rsplit(" ", 1)[1]: row for row in rows}
        assert list(told) == ["better", "worse"] and "\N{MINUS SIGN}9.80 [" in told["worse"].text
        for verdict, row in told.items():
            zero, mean = (row.find_element("css selector", part).rect for part in (".level", "rect.point"))
            assert (mean["x"] + mean["width"] / 2 > zero["x"]) == (verdict == "better")
            assert len(row.find_elements("css selector", "circle")) == 3


def test_differences_of_nothing_have_a_place_too(browser, tmp_path):
    for changes in ({"reg.lambda_weight": 0.0, "reg.lambda_act": 0.0}, {}):
        write_run(tmp_path / "made", changes, result={"test_accuracy": 0.1})
    tables = [judge(cohort) for cohort in cohorts(read_sweeps([tmp_path / "made"])[0])]
    (tmp_path / "made.html").write_text(page("made", tables, figures(tables), []))
    browser.get((tmp_path / "made.html").as_uri())
    drawn = browser.execute_script("return document.querySelector('.forest').outerHTML")
    assert not browser.get_log("browser") and "NaN" not in drawn and "Infinity" not in drawn
    zero, mean = (find(browser, f".forest {part}").rect for part in (".level", "rect.point"))
    assert mean["x"] + mean["width"] / 2 == pytest.approx(zero["x"], abs=1)  # a pixel: where a line begins


def test_a_heading_sorts_by_number_both_ways_and_says_so(browser):
    heading = "#table-runs thead th:nth-child(7)"
    find(browser, f"{heading} button").click()
    values = [float(text) for text in column(browser, "table-runs", 6) if text]
    assert len(values) == len(GRID) and values == sorted(values)
    assert find(browser, heading).get_attribute("aria-sort") == "ascending"
    find(browser, f"{heading} button").send_keys(" ")
    assert [float(text) for text in column(browser, "table-runs", 6) if text] == values[::-1]
    assert column(browser, "table-runs", 6)[-1] == "", "a run without a result stays last"
    assert find(browser, heading).get_attribute("aria-sort") == "descending"


def test_the_filter_takes_all_words(browser):
    field = find(browser, "[data-filters='table-1']")
    field.send_keys("w4a4 0.1")
    assert len(column(browser, "table-1", 0)) == 1 and column(browser, "table-1", 0) == ["W4A4"]
    output = browser.execute_script("return arguments[0].closest('.filter').querySelector('output').textContent", field)
    assert output == "1 of 4 rows"


def test_a_run_opens_by_keyboard_and_goes_back(browser):
    link = find(browser, "#table-runs tbody a")
    name = link.text
    link.send_keys("\n")
    assert find(browser, "#run h2").text == name and not find(browser, "#report").is_displayed()
    assert browser.execute_script("return document.activeElement.id") == "run"
    text = find(browser, "#run").text
    assert "python -m brsweep.train" in text and "line 29" in text and "lambda_act" in text
    browser.back()
    assert find(browser, "#report").is_displayed() and not find(browser, "#run").is_displayed()


def test_arrow_keys_read_a_figures_values(browser):
    panel = find(browser, "#figure-training svg")
    browser.execute_script("arguments[0].focus()", panel)
    panel.send_keys("\ue014")
    assert find(browser, "#tip").text.splitlines()[0] == "epoch 1"
    panel.send_keys("\ue014")
    assert find(browser, "#tip").text.splitlines()[0] == "epoch 2"
    panel.send_keys("\ue00c")
    assert not find(browser, "#tip").is_displayed()


def test_hostile_names_do_nothing(browser):
    find(browser, "[data-filters='table-runs']").send_keys("failed")
    assert column(browser, "table-runs", 0) == [HOSTILE]
    link = next(a for a in browser.find_elements("css selector", "#table-runs a") if a.is_displayed())
    link.click()
    assert find(browser, "#run h2").text == HOSTILE
    assert browser.execute_script("return window.hit === undefined && !document.querySelector('img')")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("place", ["results", "run-0"])
def test_nothing_is_wider_than_the_window(browser, width, place):
    resize(browser, width)
    browser.execute_script("location.hash = arguments[0]", place)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_no_table_is_clipped_at_1400_pixels(browser, tmp_path):
    """Of a sweep whose rows differ in a dozen settings, too."""
    changes = {"reg.ramp.act": "constant", "reg.ramp.weight": "constant", "reg.saturated.act": "ignore",
               "reg.unit.act": "value", "reg.unit.weight": "value", "reg.reduction.act": "sum",
               "reg.reduction.weight": "sum", "reg.backprop_to_alpha": True, "schedule.freeze_alpha": True,
               "reg.lambda_weight": 0.5}  # fmt: skip
    for seed in (1, 2, 3):
        write_run(tmp_path / "wide", {"seed": seed, "reg.lambda_weight": 0.0, "reg.lambda_act": 0.0})
        write_run(tmp_path / "wide", {"seed": seed})
        for key, value in changes.items():
            write_run(tmp_path / "wide", {"seed": seed, key: value})
    write_run(tmp_path / "wide", {"seed": 4}, state="failed")
    tables = [judge(cohort) for cohort in cohorts(read_sweeps([tmp_path / "wide"])[0])]
    (tmp_path / "wide.html").write_text(page("wide", tables, [], []))
    clipped = """return [...document.querySelectorAll(".scroll")]
        .filter((place) => place.scrollWidth > place.clientWidth).map((place) => place.ariaLabel)"""
    resize(browser, 1400)
    assert browser.execute_script(clipped) == []
    browser.get((tmp_path / "wide.html").as_uri())
    assert browser.execute_script("return document.querySelectorAll('#table-1 thead th').length") > 18
    assert browser.execute_script(clipped) == []


PANEL = {"title": "", "x_label": "epoch", "y_label": "", "x_ticks": None, "y_hidden": False, "y_log": True,
         "levels": [], "heat": None, "marks": [[0.5, "float"], [20.5, "warm-up"], [21.5, "BR"]]}  # fmt: skip


@pytest.mark.parametrize("kind", ["large", "medium"])
def test_names_of_short_stages_stand_above_each_other(browser, kind):
    series = {"name": "s", "x": list(range(1, 32)), "y": [1.0] * 31, "low": None, "high": None, "dots": [],
              "color": 0, "shade": None, "area": False, "markers": False}  # fmt: skip
    script = """
      const svg = document.body.appendChild(drawPanel(arguments[0], arguments[1]));
      svg.style.width = `${SIZES[arguments[1]].width}px`;
      const words = [...svg.querySelectorAll("text")].filter((text) => /float|warm-up|BR/.test(text.textContent));
      return words.map((text) => { const b = text.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height]; });
    """
    boxes = browser.execute_script(script, PANEL | {"series": [series]}, kind)
    assert len(boxes) == 3 and all(box[1] >= -2 for box in boxes)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 2 or b[3] <= a[1] + 2


@pytest.mark.parametrize(("low", "high"), [(0.24, 0.55), (0.49, 0.51), (1e-9, 1.0), (0.3, 3.3), (61, 64), (0, 1e-3)])
def test_an_axis_has_three_ticks_or_more(browser, low, high):
    ticks = browser.execute_script("return roundTicks(arguments[0], arguments[1], 5)", low, high)
    assert 3 <= len(ticks) <= 9 and low <= ticks[0] and ticks[-1] <= high
    if low > 0:
        ticks = browser.execute_script("return logTicks(arguments[0], arguments[1])", low, high)
        assert 3 <= len(ticks) <= 9 and low <= ticks[0] and ticks[-1] <= high


def test_light_and_dark_follow_the_system_and_the_button(browser):
    paper = "return getComputedStyle(document.body).backgroundColor"
    resize(browser, 1280, dark=False)
    assert browser.execute_script(paper) == "rgb(255, 255, 255)"
    resize(browser, 1280, dark=True)
    assert browser.execute_script(paper) == "rgb(20, 23, 26)" and find(browser, "#theme").text == "Light"
    find(browser, "#theme").click()
    assert browser.execute_script(paper) == "rgb(255, 255, 255)"


def test_a_screen_reader_finds_names_for_everything(browser):
    """Captions on tables, headings with a scope, labels on fields, names on figures and scrolling regions."""
    nameless = """
      const named = (node) => node.getAttribute("aria-label") || node.textContent.trim();
      const bad = [];
      for (const t of document.querySelectorAll("table")) if (!t.caption) bad.push("table");
      for (const h of document.querySelectorAll("th")) if (!h.scope) bad.push("th " + h.textContent);
      for (const i of document.querySelectorAll("input")) if (!i.labels.length) bad.push("input");
      for (const n of document.querySelectorAll("svg, button, a, [role=region]")) if (!named(n)) bad.push(n.outerHTML);
      return bad;
    """
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.execute_script(nameless) == []
    browser.execute_script("location.hash = 'run-0'")
    assert browser.execute_script(nameless) == []
    assert browser.execute_script("return document.documentElement.lang") == "en"
