"""The page for people in a real browser, over a real server with the default model.

Needs Chromium and its driver (Debian: chromium-driver), so it runs only when it is named. Screenshots go where Bazel
keeps what tests leave, or to a directory of pytest's.
"""

import base64
import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from running_server import RunningServer, running_server

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no network but this machine
)
PATIENCE_S = 60
KEY = "a-key-of-our-own"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


class Page:
    """A browser that shows the page."""

    def __init__(self, url: str, profile: pathlib.Path, screenshots: pathlib.Path) -> None:
        options = webdriver.ChromeOptions()
        programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
        assert all(programs), "this test needs chromium and chromedriver (Debian: chromium-driver)"
        options.binary_location, driver = map(str, programs)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self._url, self._screenshots = url, screenshots

    def open(self, width: int = 1280, *, dark: bool = False) -> "Page":
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.get(self._url)
        return self

    def by_id(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.all(selector)]

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, PATIENCE_S).until(lambda _: condition())

    def fill(self, name: str, text: str) -> None:
        self.driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            self.by_id(name),
            text,
        )

    def score(self) -> None:
        """Presses the button and waits for an answer or an error."""
        self.by_id("score-button").click()
        self.wait(lambda: self.by_id("score-button").get_attribute("aria-busy") == "false")

    def choose(self, method: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, f"input[value={method}]").click()

    def places(self) -> list[int]:
        """Which item of the list stands in which place of the ranking."""
        return [int(text) for text in self.texts(".ranking .tokens-count")[1:]]

    def roles(self) -> list[str]:
        """What each element is for a screen reader."""
        tree = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
        return [node["role"]["value"] for node in tree["nodes"] if "role" in node]

    def screenshot(self, name: str) -> None:
        script = "return [innerWidth, document.documentElement.scrollHeight]"
        width, height = self.driver.execute_script(script)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        command = {"captureBeyondViewport": True, "clip": clip}
        data = self.driver.execute_cdp_cmd("Page.captureScreenshot", command)["data"]
        (self._screenshots / f"{name}.png").write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What the browser's console says: also whatever the policy has refused."""
        return [line["message"] for line in self.driver.get_log("browser")]


@contextlib.contextmanager
def browser(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    kept = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    screenshots = pathlib.Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    page = Page(url, tmp_path_factory.mktemp("profile"), screenshots)
    try:
        yield page
    finally:
        page.driver.quit()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("--warmup-tokens=") as one:
        yield one


@pytest.fixture(scope="module")
def shared(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(server.url, tmp_path_factory) as page:
        yield page


@pytest.fixture
def page(shared: Page) -> Iterator[Page]:
    """The page, freshly opened; a test fails if the browser had to complain."""
    shared.open()
    shared.wait(lambda: shared.by_id("mask-facts").text)
    yield shared
    assert shared.complaints() == []


def test_a_score(page, server):
    """What the page shows must be what the API answers, best first."""
    page.score()
    items = page.by_id("items").get_attribute("value").splitlines()
    answer = server.score(
        query="Review:",
        items=[f" {item}" for item in items],
        labels=[" great", " terrible"],
        apply_softmax=True,
    )
    scores = [row[0] for row in answer["scores"]]
    order = sorted(range(len(items)), key=lambda index: -scores[index])
    assert page.places() == [index + 1 for index in order]
    assert page.texts(".item-text > summary") == [items[index] for index in order]
    for index, shown in zip(order, page.texts(".ranking td.score"), strict=True):
        assert float(shown) == pytest.approx(scores[index], rel=1e-3)
    measured = page.by_id("measured").text
    assert measured.startswith("6 items in ")
    assert f"{answer['usage']['total_tokens']} tokens" in measured
    page.all(".item-text > summary")[0].click()
    assert page.texts("details[open] .token-list li")[1].split()[0] == "loved"
    page.screenshot("score-1280-light")


def test_the_mask_names_row_and_column(page):
    stage = page.by_id("mask-stage")
    for key in (Keys.END, Keys.PAGE_DOWN):
        stage.send_keys(key)
    assert "Itself." in page.by_id("mask-reading").text
    stage.send_keys(Keys.HOME)
    assert (
        "(item 6, position 11)\nsees “Review” (query, position 0)"
        in page.by_id("mask-reading").text
    )
    for _ in range(4):
        stage.send_keys(Keys.ARROW_RIGHT)
    assert "does not see" in page.by_id("mask-reading").text
    assert "It is another item." in page.by_id("mask-reading").text


def test_the_switch_shows_what_moves_and_why_that_is_wrong(page, server):
    page.score()
    alone = page.places()
    page.by_id("causal").click()
    page.wait(lambda: page.all(".contaminated"))
    assert page.places() != alone
    words = page.by_id("moved").text
    assert "That is wrong" in words
    before, after = re.search(r": ([\d.]+) became ([\d.]+),", words).groups()
    assert before != after
    moves = dict(zip(page.places(), page.texts(".ranking td.move"), strict=True))
    assert moves[1] == "same"
    for place, item in enumerate(page.places(), 1):
        change = alone.index(item) + 1 - place
        assert moves[item] == (
            f"up {change}" if change > 0 else f"down {-change}" if change else "same"
        )
    assert page.by_id("mask-stage").get_attribute("data-isolation") == "causal"
    page.screenshot("switch-1280-light")
    page.by_id("causal").click()
    page.wait(lambda: page.places() == alone)
    assert page.by_id("moved").is_displayed() is False
    assert page.by_id("mask-stage").get_attribute("data-isolation") == "isolated"


def test_a_rerank(page, server):
    page.fill("query", "fruit")
    page.fill("items", "a car\nan apple")
    page.choose("rerank")
    page.score()
    assert page.texts(".item-text") == ["an apple", "a car"]
    assert page.by_id("mask-body").is_displayed() is False
    assert page.by_id("causal").is_enabled() is False


def test_an_error_names_the_item_and_the_limit(page):
    page.fill("items", "short\n" + "long " * 9000)
    page.choose("likelihood")
    page.score()
    error = page.by_id("score-error")
    assert error.is_displayed()
    assert error.text.startswith("Item 2: ")
    assert "8192" in error.text
    assert page.by_id("items").get_attribute("aria-invalid") == "true"
    page.fill("items", "")
    page.score()
    assert "There are no items" in error.text
    page.fill("items", "fine")
    page.score()
    assert page.all(".item-text")
    page.choose("labels")
    page.fill("labels", " , ")
    page.score()
    assert "There are no labels" in error.text
    assert page.all(".item-text") == [], "the ranking of another request stands below the error"
    page.choose("likelihood")
    page.fill("items", "fine")
    page.score()
    assert error.is_displayed() is False
    assert page.by_id("items").get_attribute("aria-invalid") is None
    refused = [line for line in page.complaints() if "400" not in line]  # Chromium logs every 4xx
    assert refused == []


def test_text_stays_text(page):
    """An item that is HTML must be shown as it is; a query, and a label in an error, too."""
    page.fill("query", HOSTILE)
    page.fill("items", f"{HOSTILE}\nfine")
    page.choose("likelihood")
    page.score()
    assert HOSTILE in page.texts(".item-text > summary")
    assert page.all("img") == []
    page.fill("items", "naïve 日本 🙂 ok\nfine")  # tokens that are parts of characters
    page.score()
    assert "naïve 日本 🙂 ok" in page.texts(".item-text > summary")
    assert page.driver.title == "isoprefill"


def test_a_long_list_is_shown_in_parts(page):
    page.fill("items", "\n".join(f"item number {number}" for number in range(1, 301)))
    page.choose("likelihood")
    page.score()
    assert len(page.all(".ranking tbody tr")) == 20
    page.driver.find_element(By.CSS_SELECTOR, "#ranking > button").click()
    assert len(page.all(".ranking tbody tr")) == 120
    assert page.by_id("measured").text.startswith("300 items in ")
    assert len(set(page.places())) == 120


@pytest.mark.parametrize("width", [320, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_can_be_read(shared, width, dark):
    """Nothing may stick out on a phone, a table must stay one, and texts need a contrast of 4.5 in both schemes."""
    page = shared.open(width, dark=dark)
    page.wait(lambda: page.by_id("mask-facts").text)
    page.score()
    page.by_id("causal").click()
    page.wait(lambda: page.all(".contaminated"))
    for panel in ("score", "audit"):
        page.by_id(f"tab-{panel}").click()
        if panel == "score":
            assert page.roles().count("row") == 7
            assert page.roles().count("columnheader") == (4 if width == 320 else 5)
        page.screenshot(f"{panel}-{width}-{'dark' if dark else 'light'}")
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
        low = page.driver.execute_script(CONTRASTS)
        assert low["checked"] > 10
        assert low["found"] == []
    assert page.complaints() == []


def test_the_audit_finds_nothing_and_finds_a_leak(page):
    """The same probe on isolated and on causal scores: one that cannot find a leak proves nothing."""
    page.by_id("tab-audit").click()
    page.by_id("audit-button").click()
    page.wait(lambda: page.all(".heat"))
    assert page.texts(".verdict") == ["No item influences another"]
    assert set(page.texts(".heat td:not(.own)")) == {"0"}
    page.by_id("audit-causal").click()
    page.by_id("audit-button").click()
    page.wait(lambda: page.texts(".verdict") == ["Items influence each other"])
    cells = page.texts(".heat td")
    for changed in range(6):
        for watched in range(6):
            cell = cells[6 * changed + watched]
            assert (cell == "·") == (changed == watched)
            if changed > watched:
                assert cell == "0"
            if changed < watched:
                assert float(cell) > 0.01
    page.screenshot("audit-leak-1280-light")


def test_the_keyboard_reaches_everything(page):
    """Tab by tab through the page: what has no visible focus cannot be used without a mouse."""
    page.score()
    page.driver.execute_script(
        "const top = document.querySelector('.name'); top.tabIndex = -1; top.focus()"
    )
    reached = []
    for _ in range(40):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        one = page.driver.switch_to.active_element
        if one.tag_name == "body":
            break
        style = "const of = arguments[0]; return [of.id, getComputedStyle(of).outlineStyle]"
        reached.append(page.driver.execute_script(style, one))
    names = [name for name, _ in reached]
    for name in (
        "tab-score",
        "query",
        "items",
        "score-button",
        "causal",
        "mask-stage",
        "tiles",
        "document",
    ):
        assert name in names
    hidden_inputs = {
        "items-file",
        "",
    }  # their labels show the focus; summaries and radios have no id
    assert {name for name, outline in reached if outline == "none"} <= hidden_inputs
    page.by_id("tab-score").send_keys(Keys.ARROW_RIGHT)
    assert page.by_id("panel-audit").is_displayed()
    page.by_id("tab-audit").send_keys(Keys.ARROW_LEFT)
    page.by_id("query").send_keys(Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: page.by_id("measured").text.startswith("6 items"))


def test_a_key_is_asked_for_and_kept_in_memory(tmp_path_factory):
    """And nothing is asked of a server without it."""
    with (
        running_server("--warmup-tokens=", ISOPREFILL_API_KEY=KEY) as locked,
        browser(locked.url, tmp_path_factory) as page,
    ):
        page.open()
        page.wait(lambda: page.by_id("key").is_displayed())
        page.by_id("key").send_keys("wrong", Keys.ENTER)
        page.wait(lambda: "refuses" in page.by_id("served").text)
        page.by_id("key").send_keys(KEY, Keys.ENTER)
        page.wait(lambda: page.by_id("mask-facts").text)
        page.score()
        assert page.by_id("measured").text.startswith("6 items")
        stored = "return localStorage.length + sessionStorage.length + document.cookie.length"
        assert page.driver.execute_script(stored) == 0
        assert KEY not in page.driver.page_source
        locked.stop()
        page.score()
        assert "does not answer" in page.by_id("score-error").text


# Elements with text of their own whose colour is too near to what they stand on. Tokens may be shaded half through.
CONTRASTS = """
const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const over = (colours) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const found = [];
let checked = 0;
for (const of of document.body.querySelectorAll("*")) {
  if (![...of.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
  if (!of.checkVisibility({ visibilityProperty: true }) || of.closest(".unseen, noscript, :disabled, option")) continue;
  const below = [];
  for (let at = of; at; at = at.parentElement) below.unshift(getComputedStyle(at).backgroundColor);
  const back = luminance(over(below));
  const front = luminance(over([...below, getComputedStyle(of).color]));
  const contrast = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
  checked += 1;
  if (contrast < 4.5) found.push(`${of.tagName}.${of.className} ${contrast.toFixed(2)} ${of.textContent.slice(0, 40)}`);
}
return { checked, found };
"""
