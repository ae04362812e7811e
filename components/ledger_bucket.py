"""The ledger of a stack whose state is in a bucket: S3, Google Cloud Storage or Azure. Made by `stack_ledger`, which
imports this module only for such a stack.

An object cannot be appended to. So it is read, and replaced on the condition that it is still the one that was read.
Each month has an object, `<prefix>/2026-11.jsonl`, which keeps them small.
"""

from __future__ import annotations

import configparser
import functools
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from components.ledger_file import LedgerFile, NotInBucket, parse_lines, timed, to_line
from components.vast.ledger import Event

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, APPEND_TIMEOUT_S = 3, 10, 30.0
RETRIES: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=REQUEST_TIMEOUT_S)}
NOT_AGAIN_S = 60.0  # after a failure a process does not wait for the bucket again: each wait delays a deployment
MAX_BYTES = 32 << 20  # of a month: about 100,000 events
# by the backend's URL, and whether only writing failed, as with credentials that may only read: when, and why
_FAILURES: dict[tuple[str, bool], tuple[float, str]] = {}
_APPENDING = threading.Lock()  # threads of a process would only replace each other's object


@dataclass(frozen=True)
class LedgerBucket:
    """The objects `<prefix>/YYYY-MM.jsonl` of a bucket, and `local` for events that could not be written to it.

    `url`: of the backend, as Pulumi takes it (s3://, gs://, azblob://). `clock`: seconds since the epoch.
    """

    url: str
    prefix: str
    local: LedgerFile
    clock: Callable[[], float] = time.time

    def append(self, event: Event) -> None:
        """Write an event to the bucket, with the current time if it has none. Raises NotInBucket, OSError."""
        event = timed(event, self.clock)
        try:
            with _APPENDING:
                self._append(f"{self.prefix}/{datetime.fromtimestamp(event.at, UTC):%Y-%m}.jsonl", to_line(event))
        except OSError as error:
            self.local.append(event)
            raise NotInBucket(
                f"the ledger {self} could not be written ({error}); the event is in {self.local} instead, which only "
                "this checkout reads. docs/state.md lists the credentials that are read"
            ) from None

    def events(self) -> list[Event]:
        """Return the events of the bucket and of the local file, by time. Raises OSError."""
        _raise_last_failure(self.url)
        try:
            keys = [found["path"] for page in obstore.list(_store(self.url), self.prefix) for found in page]
        except BaseError as error:
            raise _failure(self.url, f"the ledger {self} could not be read: {_reason(error)}") from None
        data = b"\n".join(self._read(key)[0] for key in keys if key.endswith(".jsonl"))
        return sorted([*self.local.events(), *parse_lines(data)], key=lambda event: event.at)

    def __str__(self) -> str:
        return f"{self.url.partition('?')[0].rstrip('/')}/{self.prefix}"

    def _append(self, key: str, line: bytes) -> None:
        """Raises OSError."""
        _raise_last_failure(self.url)
        _raise_last_failure(self.url, writing=True)
        deadline = time.monotonic() + APPEND_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                data, mode = self._read(key)
            except FileNotFoundError:
                data, mode = b"", "create"
            if line in data:  # written by the request before, whose answer was lost
                return
            separator = b"" if data.endswith(b"\n") or not data else b"\n"
            try:
                obstore.put(_store(self.url), key, data + separator + line, mode=mode, use_multipart=False)
                return
            except (AlreadyExistsError, PreconditionError):  # another process has replaced it
                time.sleep(random.uniform(0.0, 0.2))  # noqa: S311 - no secret
            except BaseError as error:
                raise _failure(self.url, _reason(error), writing=True) from None
        raise TimeoutError(f"other runs replaced {key} for {APPEND_TIMEOUT_S:g} s")

    def _read(self, key: str) -> tuple[bytes, Any]:
        """Return an object, and the mode in which only this version of it is replaced. Raises OSError; if there is no
        object, FileNotFoundError."""
        data = bytearray()
        try:
            answer = obstore.get(_store(self.url), key)
            for part in answer.stream():
                data += part
                if len(data) > MAX_BYTES:
                    raise OSError(f"{key} has more than {MAX_BYTES} bytes")
        except BaseError as error:
            raise _failure(self.url, f"{key} could not be read: {_reason(error)}") from None
        version = {"e_tag": answer.meta["e_tag"], "version": answer.meta["version"]}
        return bytes(data), {name: value for name, value in version.items() if value}


@functools.cache
def _store(url: str) -> ObjectStore:
    """Return a backend's bucket; its connections are reused. Raises OSError.

    Credentials are those of the environment and of the machine, as obstore reads them, or those of a profile of AWS.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "s3":
        store_type: Any = S3Store
        endpoint = options.get("endpoint", "")
        if endpoint and "://" not in endpoint:
            endpoint = f"http{'' if options.get('disableSSL') == 'true' else 's'}://{endpoint}"
        config = {"region": options.get("region"), "endpoint": endpoint} | _aws_profile(options.get("profile"))
    elif parts.scheme == "gs":
        store_type, endpoint, config = GCSStore, "", {}
    else:  # obstore does not read these two variables, but Pulumi does
        account = options.get("storage_account") or os.environ.get("AZURE_STORAGE_ACCOUNT", "")
        domain, protocol = options.get("domain", ""), options.get("protocol", "https")
        place = f"{domain}/{account}" if options.get("localemu") == "true" else f"{account}.{domain}"
        store_type, endpoint = AzureStore, f"{protocol}://{place}" if domain else ""
        config = {"account_name": account, "account_key": os.environ.get("AZURE_STORAGE_KEY"), "endpoint": endpoint}
    client: ClientConfig = {"timeout": f"{REQUEST_TIMEOUT_S}s", "connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
    client["allow_http"] = endpoint.startswith("http://")
    try:
        store: ObjectStore = store_type(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config={name: value for name, value in config.items() if value},
            client_options=client,
            retry_config=RETRIES,
        )
    except (BaseError, ValueError) as error:
        raise OSError(f"{parts.scheme}://{parts.netloc}: {_reason(error)}") from None
    return store


def _aws_profile(name: str | None) -> dict[str, str | None]:
    """Return the keys of a profile in AWS's credentials file, which obstore does not read; {} if there are none, or if
    the environment has a key. Profiles of single sign-on have none."""
    if os.environ.get("AWS_ACCESS_KEY_ID") and not name:
        return {}
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials"
    profiles = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, OSError, ValueError):
        profiles.read(path, encoding="utf-8")
    name = name or os.environ.get("AWS_PROFILE") or "default"
    keys = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return {key: profiles.get(name, key, fallback=None) for key in keys}


def _failure(url: str, reason: str, *, writing: bool = False) -> OSError:
    """Remember that the backend has failed, and return the error."""
    _FAILURES[url, writing] = time.monotonic(), reason
    return OSError(reason)


def _raise_last_failure(url: str, *, writing: bool = False) -> None:
    """Raises OSError if the backend has failed within NOT_AGAIN_S."""
    at, reason = _FAILURES.get((url, writing), (0.0, ""))
    if reason and time.monotonic() - at < NOT_AGAIN_S:
        raise OSError(reason)


def _reason(error: Exception) -> str:
    """Return an error's first line: the others are for debugging. obstore leaves out URLs with a signature."""
    return str(error).strip().partition("\n")[0]
