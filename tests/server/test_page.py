"""The page for people at GET /: how its files are answered, and what may not be in them."""

import asyncio
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from isoprefill.execution.engine_settings import EngineSettings
from isoprefill.server import openapi, routes_page
from isoprefill.server.front_end import make_app
from isoprefill.server.service import Service
from isoprefill.server.settings import ServerSettings

MOST_BYTES = 12_000  # of one file
TEXTS = {
    path.name: path.read_text() for path in routes_page.FOLDER.iterdir() if path.name[0] != "."
}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}


class Client:
    """Asks the application of a server whose model is not loaded."""

    def __init__(self, **settings: Any) -> None:
        made = ServerSettings(engine=EngineSettings(), **settings)
        self._app = make_app(Service(made, "tiny", tokenizer=None))  # type: ignore[arg-type]

    def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        """The answer to a request without a body."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(send())


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


@pytest.mark.parametrize("path", sorted(routes_page.PATHS))
def test_every_file_is_answered_with_a_policy_against_scripts(client, path):
    """Without it a mistake in the page would let an item's text run as a script, with the reader's key."""
    answer = client.ask(path)
    assert answer.status_code == 200
    assert answer.text == TEXTS[path.rpartition("/")[2] or "index.html"]
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kinds = {"": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[path.partition(".")[2]])
    head = client.ask(path, "HEAD")
    assert head.status_code == 200
    assert head.headers["content-length"] == str(len(answer.content))


def test_a_browser_keeps_files_until_they_change(client):
    """A page of one version with scripts of another breaks in ways that nobody can reproduce."""
    answer = client.ask("/page/main.js")
    assert answer.headers["cache-control"] == "no-cache"
    etag = answer.headers["etag"]
    same = client.ask("/page/main.js", **{"if-none-match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert "content-security-policy" in same.headers
    assert client.ask("/page/main.js", **{"if-none-match": '"other"'}).status_code == 200
    assert client.ask("/page/base.css").headers["etag"] != etag


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/none.js",
        "/page/index.html",
        "/page/../settings.py",
        "/page/%2e%2e%2fsettings.py",
    ],
)
def test_nothing_else_is_answered_from_there(client, path):
    assert client.ask(path).status_code == 404


def test_the_page_is_shown_without_a_key_and_nothing_else_is():
    """People give their key on the page; so it must open, and must be all that opens."""
    client = Client(api_key="a-key-of-our-own")
    assert {client.ask(path).status_code for path in routes_page.PATHS} == {200}
    for path in ("/v1/models", "/openapi.json", "/page/none.js", "/page"):
        assert client.ask(path).status_code == 401


def test_no_page_leaves_nothing_of_it():
    assert Client(no_page=True).ask("/").status_code == 404
    client = Client(no_page=True, api_key="a-key-of-our-own")
    assert {client.ask(path).status_code for path in routes_page.PATHS} == {401}


def test_the_page_is_no_part_of_the_document(client):
    """Whoever makes a client of the document has no use for a route of HTML."""
    assert not routes_page.PATHS & set(client.ask("/openapi.json").json()["paths"])
    assert openapi.OPEN_PATHS  # which stay as they were


def test_it_asks_documented_routes_only(client):
    """A private endpoint could show what no client can check."""
    documented = set(client.ask("/openapi.json").json()["paths"])
    asked = {
        path
        for text in SCRIPTS.values()
        for path in re.findall(r'"(v1/\w+|ready|health|tokenize)"', text)
    }
    assert {"v1/score", "v1/rerank", "v1/layout", "v1/models", "ready"} == asked
    assert {f"/{path}" for path in asked} <= documented
    calls = sum(
        len(re.findall(r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon", text))
        for text in SCRIPTS.values()
    )
    assert calls == 1  # in client.js, below the page's own address


def test_every_file_is_small():
    sizes = {name: len(text.encode()) for name, text in TEXTS.items()}
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES} == {}


class Markup(HTMLParser):
    """What a page refers to, and what it holds inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.inline: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        for name, value in attrs:
            if name in ("src", "href"):
                self.links.add(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style") and data.strip():
            self.inline.append(data)


def forbidden(text: str) -> list[str]:
    """What makes HTML or code of text, keeps things in the browser, or comes from elsewhere."""
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|setHTML|DOMParser|\beval\b"
        r"|new Function|localStorage|sessionStorage|indexedDB|document\.cookie|@import|url\(|//[a-z0-9.-]+\.[a-z]{2,}",
        text,
    )
    return [one for one in found if one != "//www.w3.org"]  # the name of SVG, which is not fetched


def test_no_file_comes_from_elsewhere_and_no_text_becomes_html():
    """A server may stand where there is no other network; and what users score is not the page's author's."""
    assert {name: forbidden(text) for name, text in TEXTS.items() if forbidden(text)} == {}
    assert Markup(TEXTS["index.html"]).inline == []


@pytest.mark.parametrize(
    "text",
    [
        "a.innerHTML = b",
        "import x from 'https://cdn.example/x.js'",
        "localStorage.key = 1",
        "eval(x)",
    ],
)
def test_a_planted_one_is_found(text):
    """The detector itself."""
    assert forbidden(text)
    assert Markup("<p onclick='x'>").inline
    assert Markup("<script>x</script>").inline


def test_every_file_is_used_and_every_used_file_is_there():
    """A forgotten file is dead weight in the wheel; a missing one is a blank page."""
    used = {link.removeprefix("page/") for link in Markup(TEXTS["index.html"]).links}
    used -= {"openapi.json"}
    for name, text in SCRIPTS.items():
        imported = set(re.findall(r'from "\./([\w.]+)"', text))
        assert len(imported) == len(re.findall(r"^(?:import|\} from) ", text, re.M)), name
        used |= imported
    assert used | {"index.html"} == set(TEXTS)
    assert {*routes_page.FILES, "index.html"} == set(TEXTS)
    ids = set(re.findall(r'\bid="([\w-]+)"', TEXTS["index.html"]))
    wanted = {id for text in SCRIPTS.values() for id in re.findall(r'byId\("([\w-]+)"', text)}
    assert wanted <= ids
