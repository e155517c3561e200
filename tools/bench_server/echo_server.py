"""A bare server on the same stack: Starlette on uvicorn with httptools, which reads a body and answers with it.

Its time is what the front end cannot go below without leaving Python, asyncio and uvicorn.
"""

import json
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def echo(request: Request) -> Response:
    """Answers with the body."""
    return Response(await request.body(), media_type="application/json")


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(
            json.dumps({"event": "listening", "url": f"http://127.0.0.1:{port}"}), file=sys.stderr
        )
        print(json.dumps({"event": "ready"}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v1/score", echo, methods=["POST"])])
    config = uvicorn.Config(
        app,
        port=0,
        http="httptools",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    _Server(config).run()
