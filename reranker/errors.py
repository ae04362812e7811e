"""The exceptions of this package: all derive from RerankerError. No text contains a key. Raised by all modules."""

from __future__ import annotations


class RerankerError(Exception):
    """Base class of all errors of this package."""


class InvalidInput(RerankerError, ValueError):
    """An argument is invalid; the text names it and its index. No request was sent."""


class StackError(RerankerError):
    """The outputs of a Pulumi stack cannot be read."""


class PulumiMissing(StackError):
    """The program `pulumi` cannot be run."""


class UnknownStack(StackError):
    """The stack does not exist, or no stack is selected."""


class NotDeployed(StackError):
    """The stack exists but is not deployed: run `pulumi up` first."""


class WrongPassphrase(StackError):
    """The stack's secrets, including the API key, cannot be decrypted with the current passphrase."""


class Unreachable(RerankerError):
    """No connection within the deadline, or the connection was lost."""


class Untrusted(RerankerError):
    """The server's certificate is not signed by the trusted CA. The key was not sent."""


class ServerError(RerankerError):
    """The response has another status than 200. `message` is the server's error text."""

    def __init__(self, text: str, status: int = 0, message: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.message = message


class KeyRefused(ServerError):
    """401: the key is missing or invalid."""


class Busy(ServerError):
    """429, 502 or 503 until the deadline; 504; or a timeout after the request was sent (`status` 0)."""


class MalformedAnswer(RerankerError):
    """200 with a body that is not from a reranker: the address is that of another server or proxy."""
