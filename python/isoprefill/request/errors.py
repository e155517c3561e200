"""What is wrong with a request, for people and for programs."""


class RequestError(ValueError):
    """A request that cannot be scored as it stands.

    Attributes:
        code: what is wrong, from the error table of the `/v1/score` API, such as "empty_item".
        param: the field that is wrong, with its place, such as "items[3]".
    """

    def __init__(self, message: str, *, code: str, param: str) -> None:
        """Takes the message, which names the argument, its value and the limit."""
        super().__init__(message)
        self.code = code
        self.param = param


class MissingLogprobError(RuntimeError):
    """The model gave no log-probability where one was asked for; names the request and the item."""
