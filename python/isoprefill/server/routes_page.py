"""GET /: the page for people, whose files lie in the folder page/. It asks this server's API like any other client."""

import dataclasses
import hashlib
import pathlib

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = pathlib.Path(__file__).parent / "page"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline, and no text that becomes HTML: not even by a mistake in the page's own code.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "cache-control": "no-cache",  # keep it, but ask whether it is still the same: another version may serve next
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


@dataclasses.dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page, as it is answered."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: pathlib.Path) -> "PageFile":
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:32]
        return cls(content, _MEDIA_TYPES[path.suffix], f'"{digest}"')


INDEX = PageFile.read(FOLDER / "index.html")
FILES = {
    path.name: PageFile.read(path)
    for path in sorted(FOLDER.iterdir())
    if path.suffix in _MEDIA_TYPES and path.name != "index.html"
}
# They hold nothing of the server's, so they are answered without a key: people give theirs on the page.
PATHS = frozenset({"/", *(f"/page/{name}" for name in FILES)})


def router() -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.head("/")
    @routes.get("/")
    async def index(request: Request) -> Response:
        return _answer(request, INDEX)

    @routes.head("/page/{name}")
    @routes.get("/page/{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return _answer(request, FILES[name])

    return routes


def _answer(request: Request, file: PageFile) -> Response:
    headers = _HEADERS | {"etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
