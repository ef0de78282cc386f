"""The explorer as a reader has it: JupyterLab and Voila on loopback, in a real browser.

Screenshots and latencies are kept in the folder that PTLIB_ARTEFACTS names, or else in the test's temporary folder.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

import ptlib

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")]

LONG = 120_000  # ms: a machine with much else to do tunes a prompt in this time
SETUP = """
import ptlib
from ptlib.lab.widgets import Explorer, panel
lms = [ptlib.load_lm(f"zoo/{name}") for name in ("bert-mini", "roberta-mini", "albert-mini")]
explorer = Explorer(lms, ptlib.load_tasks("zoo", None, "P407,P36"), epochs=4)
"""
# {a knob: another value}, and {a knob: the other knobs that it has a meaning with}
TURNS = {"source": "zoo/albert-mini", "target": "zoo/bert-mini", "relation": "capital (P36)",
         "method": "procrustes", "normalisation": "scale", "anchors": "64",
         "of these": "frequent", "calibration": "1", "prompt": "free vectors", "seed": "1"}
NEEDED = {"normalisation": {"method": "procrustes"}, "of these": {"method": "procrustes", "anchors": "64"}}


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("PTLIB_ARTEFACTS") or tmp_path_factory.mktemp("artefacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("served") / "explorer.ipynb"
    cells = [nbformat.v4.new_code_cell(SETUP), nbformat.v4.new_code_cell("panel(explorer)")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@contextmanager
def served(*command: str, folder: Path, path: str):
    """Run a server until the block ends; yields the address of a page that it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(Path(ptlib.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    log = folder / f"{command[0]}.log"
    with log.open("w") as output:
        server = subprocess.Popen([sys.executable, "-m", *command, "--no-browser", f"--port={port}"], cwd=folder,
                                  env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield answering(f"http://127.0.0.1:{port}{path}", server, log)
        finally:
            server.terminate()
            server.wait(60)


def answering(address: str, server: subprocess.Popen, log: Path) -> str:
    root = "/".join(address.split("/")[:3])
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{root}/static/favicon.ico", timeout=5).close()
            return address
        except urllib.error.HTTPError:
            return address  # it answers, if only that there is no such file
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def browser():
    """One for all tests: Playwright cannot be started twice."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def browser_page(browser, width: int = 1100):
    """A page, and the errors that its console tells."""
    page = browser.new_page(viewport={"width": width, "height": 2200})
    page.set_default_timeout(LONG)
    errors: list[str] = []
    page.on("console", lambda said: errors.append(f"{said.text} {said.location}") if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page, errors
    page.close()


@pytest.fixture(scope="module")
def lab(notebook, browser):
    """The panel in JupyterLab, shown."""
    command = ("jupyterlab", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--allow-root",
               f"--ServerApp.root_dir={notebook.parent}", "--LabApp.news_url=None")
    with served(*command, folder=notebook.parent, path=f"/lab/tree/{notebook.name}") as address, \
            browser_page(browser) as (page, errors):
        page.goto(address)
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # what is run before that is forgotten
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        shown(page)
        yield page, errors


def shown(page) -> None:
    """Wait until the picture is there and no longer old."""
    page.wait_for_selector(".ptlib-picture h3:not(:empty)")
    page.wait_for_selector(".ptlib-picture .body:not(.old)")


def state(page) -> dict[str, str]:
    """What a reader sees of the setting and its outcome."""
    return page.evaluate("""() => Object.fromEntries(["header", ".scores table", ".words table", ".stars"].map(
        part => [part, document.querySelector(".ptlib-picture " + part).innerHTML]))""")


def knob(page, name: str):
    row = page.locator(".widget-inline-hbox").filter(has=page.locator(f"label:text-is('{name}')"))
    return row.locator("select, input").first


def turned(page, turn) -> float:
    """Seconds from a turn to the new picture."""
    before = state(page)
    began = time.perf_counter()
    turn()
    page.wait_for_function("""before => {
        const now = Object.fromEntries(Object.keys(before).map(
            part => [part, document.querySelector(".ptlib-picture " + part).innerHTML]));
        return JSON.stringify(now) !== JSON.stringify(before) && !document.querySelector(".ptlib-picture .body.old");
    }""", arg=before)
    return time.perf_counter() - began


@pytest.fixture(autouse=True)
def no_console_errors(request):
    """After each test in the lab, its console has told no error."""
    yield
    if "lab" in request.fixturenames:
        assert not request.getfixturevalue("lab")[1]


def drawn_dots(page) -> list[list[float]]:
    """Where the first map has dark dots, the words near a vector: [x, y], in pixels of the page."""
    return page.evaluate("""() => {
        const canvas = document.querySelector(".ptlib-picture canvas"), box = canvas.getBoundingClientRect();
        const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return [...Array(width * height).keys()].filter(i => data[4 * i + 3] === 255 && data[4 * i] < 100).map(i => [
            box.left + (i % width) * box.width / width, box.top + Math.floor(i / width) * box.height / height]);
    }""")


def test_the_panel_is_shown(lab, artefacts):
    page, _ = lab
    assert page.locator(".ptlib-picture header h3").inner_text().startswith("language of work (P407)")
    label = page.locator(".ptlib-picture canvas").first.get_attribute("aria-label")
    assert int(label.removeprefix("Map of ").split()[0]) > 2000 and len(drawn_dots(page)) > 2000
    for width in (1100, 900):
        page.set_viewport_size({"width": width, "height": 2200})
        page.locator(".jp-OutputArea-output:has(.ptlib-picture)").first.screenshot(path=artefacts / f"lab-{width}.png")
        box = page.evaluate("""() => [...document.querySelectorAll(".ptlib-picture, .ptlib-picture section")].map(
            part => part.scrollWidth - part.clientWidth)""")
        assert max(box) <= 1, f"something is cut at {width} px"
    page.set_viewport_size({"width": 1100, "height": 2200})


def select(page, name: str, label: str) -> float:
    """Choose another value of a knob; returns seconds to the new picture."""
    if name == "seed":
        return turned(page, lambda: (knob(page, name).fill(label), knob(page, name).press("Enter")))
    return turned(page, lambda: knob(page, name).select_option(label=label))


def value_of(page, name: str) -> str:
    return knob(page, name).evaluate("knob => knob.selectedOptions ? knob.selectedOptions[0].label : knob.value")


def test_every_control_turns_there_and_back(lab, artefacts):
    page, _ = lab
    seconds, first = {}, state(page)
    for name, value in TURNS.items():
        needed = NEEDED.get(name, {})
        for other, label in needed.items():
            select(page, other, label)
        old, before = value_of(page, name), state(page)
        seconds[f"{name}: {value}"] = select(page, name, value)
        seconds[f"{name}: back to {old}"] = select(page, name, old)
        assert state(page) == before, name
        for other in reversed(needed):
            select(page, other, {"method": "auto", "anchors": "default"}[other])
    assert state(page) == first
    for method in ("linear", "weighted-sum", "closed-form"):  # new settings, nothing to be tuned
        seconds[f"new: {method}"] = select(page, "method", method)
    select(page, "method", "auto")
    (artefacts / "latencies.json").write_text(json.dumps(seconds, indent=1))


def test_a_word_lights_up_on_the_other_side(lab):
    page, _ = lab
    word = page.locator(".ptlib-picture .words td.word").first
    word.hover()
    lit = page.locator(".ptlib-picture .lit [data-lit]")
    assert lit.count() == 2
    assert set(lit.evaluate_all("all => all.map(one => one.dataset.lit)")) == {word.inner_text()}
    page.locator(".ptlib-picture header").hover()
    assert lit.count() == 0
    page.mouse.move(*drawn_dots(page)[0])
    assert page.locator(".ptlib-picture figure:last-child .lit [data-lit]").count() >= 1


def test_bars_are_dragged_and_knocked_out(lab, artefacts):
    page, _ = lab
    before, bar = state(page), page.locator(".ptlib-picture .bar").first
    number = bar.locator("output")
    tuned = number.inner_text()
    seconds = {"knock out": turned(page, bar.locator("button").click)}
    assert number.inner_text() == "0 %"
    box = bar.locator(".track").bounding_box()

    def drag() -> None:
        page.mouse.move(box["x"] + 1, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5, steps=5)
        page.mouse.up()

    seconds["drag"] = turned(page, drag)
    page.wait_for_function("bar => Math.abs(parseInt(bar.textContent) - 50) <= 2", arg=number.element_handle())
    seconds["arrow key"] = turned(page, lambda: bar.locator(".track").press("ArrowLeft"))
    page.locator(".ptlib-picture .reset").click()
    page.wait_for_function("before => document.querySelector('.ptlib-picture .stars').innerHTML === before",
                           arg=before[".stars"])
    shown(page)
    assert number.inner_text() == tuned
    (artefacts / "bars.json").write_text(json.dumps(seconds, indent=1))


def test_both_models_answer_a_typed_subject(lab):
    page, _ = lab
    page.get_by_label("subject", exact=True).fill("Borgen")
    page.wait_for_selector(".ptlib-picture .answers td")
    assert page.locator(".ptlib-picture .answers td.word").count() == 10


def test_a_setting_is_pinned_and_restored(lab):
    page, _ = lab
    before = state(page)
    page.locator(".ptlib-picture .current .pin").click()
    page.wait_for_selector(".ptlib-picture .score u")
    assert "pinned" in page.locator(".ptlib-picture .facts").inner_text()
    select(page, "method", "discretize")
    page.locator(".ptlib-picture li:has(.pin[aria-pressed=true]) .back").click()
    page.wait_for_function("header => document.querySelector('.ptlib-picture header').innerHTML === header",
                           arg=before["header"])
    page.locator(".ptlib-picture .pin[aria-pressed=true]").first.click()
    page.wait_for_selector(".ptlib-picture .score u", state="detached")


def test_an_error_dims_the_old_picture_and_goes(lab, artefacts):
    page, _ = lab
    before = state(page)
    knob(page, "target").select_option(label="zoo/albert-mini")
    shown(page)
    knob(page, "method").select_option(label="copy")
    page.wait_for_selector(".ptlib-picture .status.failure")
    assert "equal widths" in page.locator(".ptlib-picture .status").inner_text()
    assert page.locator(".ptlib-picture .body.old").count() == 1
    assert len(drawn_dots(page)) > 1000, "the old picture stays"
    page.locator(".jp-OutputArea-output:has(.ptlib-picture)").first.screenshot(path=artefacts / "lab-error.png")
    knob(page, "method").select_option(label="auto")
    shown(page)
    knob(page, "target").select_option(label="zoo/roberta-mini")
    page.wait_for_function("header => document.querySelector('.ptlib-picture header').innerHTML === header",
                           arg=before["header"])
    shown(page)
    assert page.locator(".ptlib-picture .status.failure").count() == 0


def test_files_are_saved(lab, tmp_path):
    page, _ = lab
    for what, suffix in (("picture", ".png"), ("prompt", ".safetensors"), ("code", ".py")):
        with page.expect_download() as waited:
            page.get_by_role("button", name=f"save {what}").click()
        assert waited.value.suggested_filename.endswith(suffix)
        waited.value.save_as(tmp_path / what)
    assert ptlib.Prompt.load(tmp_path / "prompt").lm_name == "zoo/roberta-mini"
    assert "ptlib.transfer" in (tmp_path / "code").read_text()


def test_voila_shows_the_panel_too(notebook, browser, artefacts):
    pytest.importorskip("voila", reason="voila is not installed")
    command = ("voila", str(notebook), "--Voila.ip=127.0.0.1")
    with served(*command, folder=notebook.parent, path="/") as address, browser_page(browser, 900) as (page, errors):
        page.goto(address, wait_until="commit")
        shown(page)
        select(page, "method", "discretize")
        page.screenshot(path=artefacts / "voila-900.png", full_page=True)
        # Voila's own page asks a CDN for its icons; without a network it has none.
        assert not [error for error in errors if "Failed to load resource" not in error]
