"""How a command of ops/ ends: one exit code, one line, one remedy. The table `CODES` is the only place for a meaning.

--help and docs/pipelines.md show that table. Errors of this project are told by their class, also where they come as
text from the engine ("NoOffer: ..."); what Pulumi and its backends say themselves is told by `PULUMI_SAYS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from components.errors import (
    ApiUnreachable,
    AuthError,
    ConfigError,
    NoOffer,
    QueryError,
    RateLimited,
    StateError,
    VastRerankerError,
)

OK, ERROR, USAGE, LEFT, SECRET, POLICY, NO_OFFER, DRIFT, BUSY, PENDING = range(10)

CODES: Mapping[int, str] = MappingProxyType(
    {
        OK: "done; in sync; nothing found",
        ERROR: "failed, for a reason that no other code names",
        USAGE: "a flag, a stack name or a config value is wrong",
        LEFT: "instances that no state knows were found and left",
        SECRET: "a secret is missing or wrong: passphrase, token or Vast.ai key",
        POLICY: "a policy or a protection blocks it",
        NO_OFFER: "the market has no offer that fits",
        DRIFT: "what runs is not what is declared",
        BUSY: "the stack is locked or half-way, or its backend or the Vast.ai API cannot be reached: try again",
        PENDING: "the program or its config has changes that are not deployed: heal, roll and rotate-key refuse",
    }
)

# class (and those under it) -> exit code, what to do where the error does not say it itself; any other class: ERROR
OF_CLASS: Mapping[type[VastRerankerError], tuple[int, str]] = {
    AuthError: (SECRET, ""),
    ApiUnreachable: (BUSY, ""),
    RateLimited: (BUSY, ""),
    StateError: (BUSY, ""),
    NoOffer: (NO_OFFER, "relax the condition it names in Pulumi.<stack>.yaml, or try later"),
    QueryError: (USAGE, "correct it in Pulumi.<stack>.yaml"),
    ConfigError: (USAGE, "correct it in Pulumi.<stack>.yaml"),
}
LOG_IN = (
    "set PULUMI_ACCESS_TOKEN, or set PULUMI_BACKEND_URL to a backend of your own (file://, s3://, gs://, azblob://)"
)
# what the CLI's own exit codes mean (pulumi 3.259, sdk/go/common/util/cmdutil/exit.go)
OF_PULUMI: Mapping[int, tuple[int, str]] = {2: (USAGE, ""), 3: (SECRET, LOG_IN), 5: (POLICY, "")}
# What Pulumi 3.259 and its backends say with exit code 1. The first that fits counts.
PULUMI_SAYS = (
    (r"\bprotected\b", POLICY, "set protect: false in Pulumi.<stack>.yaml and deploy that first, if it is meant"),
    (
        r"passphrase must be set",
        SECRET,
        "set PULUMI_CONFIG_PASSPHRASE (in a pipeline: a secret of that name) to the passphrase of this stack",
    ),
    (
        r"incorrect passphrase",
        SECRET,
        "PULUMI_CONFIG_PASSPHRASE is not the one that this stack was made with; set that one",
    ),
    (
        r"no credential|NoCredentialProviders|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|"
        r"failed to refresh cached credentials|could not find default credentials",
        SECRET,
        "the backend refuses the credentials in the environment; set those of PULUMI_BACKEND_URL's store",
    ),
    (
        r"failed to save snapshot|failed to load checkpoint|unexpected end of JSON input",
        BUSY,
        "make room where the state is; `python -m ops recover --stack NAME` then restores its last good copy, the "
        "NAME.json.bak beside it or an older one, and adopts what was rented meanwhile",
    ),
    (
        r"failed to discover package requirements",
        ERROR,
        "Pulumi begins with `python -m pip list`, which fails by itself: PYTHONPATH may name packages of another "
        "project (`unset PYTHONPATH`), or .venv is broken (`rm -r .venv`, then `make setup`)",
    ),
    (r"stack names? (may|must|cannot|can) ", USAGE, "choose letters, digits, hyphens, underscores and periods"),
    (
        r"unable to open (state directory|bucket)|open bucket|performing HTTP request|blob \(|could not list|"
        r"dial tcp|no such host|connection refused|i/o timeout|TLS handshake",
        BUSY,
        "the state backend cannot be reached: check PULUMI_BACKEND_URL and the network, then run again",
    ),
)
_NOISE = re.compile(r"an unhandled error occurred: program exited|(preview|update|destroy) failed$|no changes were exp")


class OpsError(Exception):
    """A command cannot go on; `code` is one of CODES, `remedy` the next step (may be empty)."""

    def __init__(self, code: int, text: str, remedy: str = "") -> None:
        self.code = code
        self.text = text
        self.remedy = remedy
        super().__init__(f"{text}; {remedy}" if remedy else text)


def from_error(error: Exception) -> OpsError:
    """Return any error that is expected here with its exit code."""
    if isinstance(error, OpsError):
        return error
    code, remedy = _of_class(type(error))
    return OpsError(code, " ".join(str(error).split()), remedy)


def from_messages(messages: Iterable[str], pulumi_rc: int = 1) -> OpsError:
    """Return what the error messages of a failed Pulumi command amount to; one of our own errors counts first."""
    texts = [text for text in (" ".join(one.removeprefix("error: ").split()) for one in messages) if text]
    texts = [text for text in texts if not _NOISE.match(text)] or ["pulumi failed and said nothing"]
    known = re.compile(rf"(?:^|[ :])({'|'.join(_BY_NAME)}): (.*)")
    for text in texts:
        if found := known.search(text):
            return OpsError(_BY_NAME[found[1]][0], found[2], _BY_NAME[found[1]][1])
    if pulumi_rc in OF_PULUMI:
        return OpsError(OF_PULUMI[pulumi_rc][0], texts[0], OF_PULUMI[pulumi_rc][1])
    for pattern, code, remedy in PULUMI_SAYS:
        for text in texts:
            if re.search(pattern, text, re.IGNORECASE):
                return OpsError(code, text, remedy)
    return OpsError(ERROR, texts[0])


def _of_class(kind: type) -> tuple[int, str]:
    return next((meaning for base, meaning in OF_CLASS.items() if issubclass(kind, base)), (ERROR, ""))


def _tree(kind: type[VastRerankerError]) -> Iterable[type[VastRerankerError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


_BY_NAME = {kind.__name__: _of_class(kind) for kind in _tree(VastRerankerError)}


def table() -> str:
    """Return the codes for --help."""
    return "exit codes:\n" + "\n".join(f"  {code}  {meaning}" for code, meaning in CODES.items())
