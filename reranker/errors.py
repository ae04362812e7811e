"""What can go wrong between a caller and its reranker: one tree, so that `except RerankerError` catches all of it.

Raised throughout this package, which stands alone: it imports nothing else of the project. No text holds a key.
"""

from __future__ import annotations


class RerankerError(Exception):
    """The root: catching it catches everything this package raises on purpose."""


class InvalidInput(RerankerError, ValueError):
    """What the caller gave cannot be sent: says which argument, and which index of it. Nothing was asked."""


class StackError(RerankerError):
    """The outputs of a Pulumi stack cannot be read."""


class PulumiMissing(StackError):
    """There is no `pulumi` to ask."""


class UnknownStack(StackError):
    """Pulumi knows no such stack, or none is selected."""


class NotDeployed(StackError):
    """The stack is there, and nothing runs: `pulumi up` first."""


class WrongPassphrase(StackError):
    """The stack's secrets, the API key among them, cannot be decrypted with the passphrase that is set."""


class Unreachable(RerankerError):
    """No connection came about within the deadline, or none lasted."""


class Untrusted(RerankerError):
    """Something answered, and its certificate is not one that the CA vouches for. The key was not sent."""


class ServerError(RerankerError):
    """The server answered with another status than 200: `status`, and its own words in `message`."""

    def __init__(self, text: str, status: int = 0, message: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.message = message


class KeyRefused(ServerError):
    """401: the key is missing, or is not this server's."""


class Busy(ServerError):
    """429, 502 or 503 until the deadline, or 504, or no answer (`status` 0) from a server that took the request."""


class MalformedAnswer(RerankerError):
    """200 with a body that is not a reranker's: another server, or a proxy, sits at this address."""
