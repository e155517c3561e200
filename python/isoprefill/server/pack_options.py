"""How the query and items of a request are packed, as the request asks and the server is set."""

from typing import Protocol

from isoprefill.modes import Isolation, Tokenization
from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions
from isoprefill.server.settings import ServerSettings


class PackChoices(Protocol):
    """What a request may say of its pack; None: as the server is set."""

    isolation: Isolation | None
    tokenization: Tokenization
    untrusted_text: bool | None


def pack_options(body: PackChoices, settings: ServerSettings) -> ScoreOptions:
    """Returns the options of a pack, without anything to read of it.

    Raises:
        RequestError: causal isolation is asked of a server that does not allow it.
    """
    isolation = body.isolation or settings.isolation
    if isolation == "causal" and not settings.allows_causal:
        raise RequestError("invalid_isolation.server", "isolation")
    return ScoreOptions(
        isolation=isolation,
        delimiter=settings.delimiter,
        delimiter_id=settings.delimiter_token_id,
        tokenization=body.tokenization,
        untrusted_text=settings.untrusts(body.untrusted_text),
    )
