"""Exit codes of the commands of ops/, and errors with a code, a line of text and a remedy.

`CODES` defines the codes; --help and docs/pipelines.md show it. An error of this project gets its code by its class,
also if the engine prints it as text ("NoOffer: ..."). `PULUMI_ERRORS` classifies errors of Pulumi and its backends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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

OK, ERROR, USAGE, ORPHANS, SECRET, POLICY, NO_OFFER, DRIFT, BUSY, PENDING = range(10)

CODES: Mapping[int, str] = {
    OK: "done; in sync; nothing found",
    ERROR: "failed for any other reason",
    USAGE: "a flag, a stack name or a config value is wrong",
    ORPHANS: "orphaned instances (in no state) were found and not destroyed",
    SECRET: "a secret is missing or wrong: passphrase, token or Vast.ai key",
    POLICY: "blocked by a policy or by protection",
    NO_OFFER: "no offer on the market matches",
    DRIFT: "drift: the running instances differ from the declared ones",
    BUSY: "the stack is locked or half updated, or its backend or the Vast.ai API cannot be reached: try again",
    PENDING: "the program or its config has undeployed changes: heal, roll and rotate-key refuse to run",
}

# class (and its subclasses) -> exit code, remedy if the error has none; any other class: ERROR
CODE_BY_CLASS: Mapping[type[VastRerankerError], tuple[int, str]] = {
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
# exit codes of the CLI (pulumi 3.259, sdk/go/common/util/cmdutil/exit.go)
PULUMI_CODES: Mapping[int, tuple[int, str]] = {2: (USAGE, ""), 3: (SECRET, LOG_IN), 5: (POLICY, "")}
# Errors of Pulumi 3.259 and its backends with exit code 1. The first match counts.
PULUMI_ERRORS = (
    (r"\bprotected\b", POLICY, "to destroy it, set protect: false in Pulumi.<stack>.yaml and deploy that first"),
    (
        r"passphrase must be set",
        SECRET,
        "set PULUMI_CONFIG_PASSPHRASE (in a pipeline as a secret) to the stack's passphrase",
    ),
    (r"incorrect passphrase", SECRET, "PULUMI_CONFIG_PASSPHRASE is not this stack's passphrase; set the correct one"),
    (
        r"no credential|NoCredentialProviders|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|"
        r"failed to refresh cached credentials|could not find default credentials",
        SECRET,
        "the backend refuses the credentials in the environment; set those of PULUMI_BACKEND_URL's store",
    ),
    (
        r"failed to save snapshot|failed to load checkpoint|unexpected end of JSON input",
        BUSY,
        "free disk space for the state, if it is full; `python -m ops recover --stack NAME` then restores its last "
        "good copy, NAME.json.bak or an older one, and adopts instances rented since then",
    ),
    (
        r"failed to discover package requirements",
        ERROR,
        "Pulumi runs `python -m pip list` first, and it fails: PYTHONPATH may contain packages of another project "
        "(`unset PYTHONPATH`), or .venv is broken (`rm -r .venv`, then `make setup`)",
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
    """A failed command; `code` is one of CODES, `remedy` the next step (may be empty)."""

    def __init__(self, code: int, text: str, remedy: str = "") -> None:
        self.code = code
        self.text = text
        self.remedy = remedy
        super().__init__(f"{text}; {remedy}" if remedy else text)


def from_error(error: Exception) -> OpsError:
    if isinstance(error, OpsError):
        return error
    code, remedy = _code_and_remedy(type(error))
    return OpsError(code, " ".join(str(error).split()), remedy)


def from_messages(messages: Iterable[str], pulumi_rc: int = 1) -> OpsError:
    """Classify the error messages of a failed Pulumi command; errors of this project have priority."""
    texts = [text for text in (" ".join(message.removeprefix("error: ").split()) for message in messages) if text]
    texts = [text for text in texts if not _NOISE.match(text)] or ["pulumi failed without a message"]
    own_error = re.compile(rf"(?:^|[ :])({'|'.join(_CODE_BY_NAME)}): (.*)")
    for text in texts:
        if match := own_error.search(text):
            code, remedy = _CODE_BY_NAME[match[1]]
            return OpsError(code, match[2], remedy)
    if pulumi_rc in PULUMI_CODES:
        code, remedy = PULUMI_CODES[pulumi_rc]
        return OpsError(code, texts[0], remedy)
    for pattern, code, remedy in PULUMI_ERRORS:
        for text in texts:
            if re.search(pattern, text, re.IGNORECASE):
                return OpsError(code, text, remedy)
    return OpsError(ERROR, texts[0])


def _code_and_remedy(cls: type) -> tuple[int, str]:
    return next((value for base, value in CODE_BY_CLASS.items() if issubclass(cls, base)), (ERROR, ""))


def _all_subclasses(cls: type[VastRerankerError]) -> Iterable[type[VastRerankerError]]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _all_subclasses(subclass)


_CODE_BY_NAME = {cls.__name__: _code_and_remedy(cls) for cls in _all_subclasses(VastRerankerError)}


def table() -> str:
    return "exit codes:\n" + "\n".join(f"  {code}  {meaning}" for code, meaning in CODES.items())
