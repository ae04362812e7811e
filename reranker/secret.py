"""The one reader of secrets, wherever they come from: environment, config, files. Used by the stack and by clients."""

from __future__ import annotations

import re

from reranker.errors import InvalidInput

RULE = "no blank, no control character, nothing beyond ASCII inside: no header can carry it"


def read_secret(text: str, name: str) -> str:
    """Return a secret without the blanks around it: a file or a secret store may end it with a newline.

    Raises InvalidInput with the name and the rule, never the value.
    """
    bare = text.strip()
    if not re.fullmatch(r"[\x21-\x7e]*", bare):
        raise InvalidInput(f"{name}: {RULE}")
    return bare
