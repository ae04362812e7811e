"""Client for a reranker deployed by a stack of this project: ranks documents, scores pairs. Depends on `certifi` only.

>>> from reranker import Reranker
>>> with Reranker.from_stack("dev") as reranker:                                    # doctest: +SKIP
...     best = reranker.rerank("What is deep learning?", documents, top_n=3)
"""

from reranker.answers import Failed, Ranked, Ranking, ServedModel
from reranker.batches import Limits
from reranker.client import Reranker
from reranker.endpoint import Endpoint
from reranker.errors import (
    Busy,
    InvalidInput,
    KeyRefused,
    MalformedAnswer,
    NotDeployed,
    PulumiMissing,
    RerankerError,
    ServerError,
    StackError,
    UnknownStack,
    Unreachable,
    Untrusted,
    WrongPassphrase,
)
from reranker.patience import Patience
from reranker.stack import Replica, Stack, read_stack

__all__ = [
    "Busy",
    "Endpoint",
    "Failed",
    "InvalidInput",
    "KeyRefused",
    "Limits",
    "MalformedAnswer",
    "NotDeployed",
    "Patience",
    "PulumiMissing",
    "Ranked",
    "Ranking",
    "Replica",
    "Reranker",
    "RerankerError",
    "ServedModel",
    "ServerError",
    "Stack",
    "StackError",
    "UnknownStack",
    "Unreachable",
    "Untrusted",
    "WrongPassphrase",
    "read_stack",
]
