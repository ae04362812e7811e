"""The ledger in a bucket, with an S3 server on loopback."""

import multiprocessing
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from components.ledger_bucket import MAX_BYTES
from components.ledger_file import LedgerFile, NotInBucket, parse_lines
from components.stack_ledger import append_all, open_ledger
from components.vast.ledger import Event, fold
from tests import s3_server
from tests.s3_server import Between
from tests.unit.hostile_server import server

NAME = "vast-reranker/prod/reranker"
T = datetime(2026, 11, 30, 23, 59, tzinfo=UTC).timestamp()
RENT = Event("rent", T, NAME, "aa", 1)
END = Event("end", T + 120, instance_id=1, reason="destroyed")
FOLDER = ".pulumi/ledger/vast-reranker/prod"


@pytest.fixture(scope="module")
def bucket():
    with s3_server.running() as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name, value in s3_server.ENV.items():
        monkeypatch.setenv(name, value)


def ledger_at(url, folder):
    return open_ledger(NAME, {"PULUMI_BACKEND_URL": url, "HOME": str(folder)}, folder)


def test_what_one_checkout_writes_another_reads_and_each_month_has_its_object(bucket, tmp_path):
    url = bucket.backend("/months")
    ledger = ledger_at(url, tmp_path / "anna")
    assert ledger.events() == []
    ledger.append(END)
    ledger.append(RENT)
    assert bucket.keys("months/") == [f"months/{FOLDER}/2026-11.jsonl", f"months/{FOLDER}/2026-12.jsonl"]
    assert ledger_at(url, tmp_path / "bert").events() == [RENT, END]
    ledger.append(Event("serving", instance_id=1))
    assert abs(ledger_at(url, tmp_path / "bert").events()[0].at - time.time()) < 60
    assert not list(tmp_path.rglob("*.jsonl"))


def test_another_stacks_ledger_is_not_read(bucket, tmp_path):
    env = {"PULUMI_BACKEND_URL": bucket.backend("/stacks"), "HOME": str(tmp_path)}
    open_ledger("vast-reranker/production/reranker", env, tmp_path).append(RENT)
    assert ledger_at(bucket.backend("/stacks"), tmp_path).events() == []


def write_many(url, folder, worker):
    ledger = ledger_at(url, folder)
    numbers = range(1000 * worker + 1, 1000 * worker + 7)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda number: ledger.append(Event("rent", T, instance_id=number)), numbers))


def test_many_writers_lose_nothing(bucket, tmp_path):
    url = bucket.backend("/many")
    writers = [
        multiprocessing.get_context("spawn").Process(target=write_many, args=(url, tmp_path, one)) for one in range(3)
    ]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    assert len(fold(ledger_at(url, tmp_path).events())) == 18
    assert not list(tmp_path.rglob("*.jsonl"))


def test_an_event_whose_answer_was_lost_is_written_once(bucket, tmp_path):
    between = Between(bucket, cuts=2)
    try:
        ledger_at(bucket.backend("/lost", between.address), tmp_path).append(RENT)
    finally:
        between.listening.close()
    assert between.cuts == 0
    assert bucket.read(f"lost/{FOLDER}/2026-11.jsonl").count("\n") == 1
    assert ledger_at(bucket.backend("/lost"), tmp_path).events() == [RENT]


def test_an_event_that_the_bucket_does_not_take_is_kept_in_the_checkout_and_read_there(bucket, tmp_path):
    local = LedgerFile(tmp_path / ".local/ledger/vast-reranker/prod.jsonl")
    url = bucket.backend("/later")
    ledger_at(url, tmp_path).append(RENT)
    unreachable = ledger_at(bucket.backend("/later", "127.0.0.1:9"), tmp_path)
    with pytest.raises(NotInBucket, match=r"127\.0\.0\.1:9") as told:
        unreachable.append(END)
    assert str(local.path) in str(told.value)
    assert "\n" not in str(told.value)
    assert local.events() == [END]
    assert ledger_at(url, tmp_path).events() == [RENT, END]
    with pytest.raises(OSError, match="could not be read"):
        unreachable.events()
    with pytest.raises(NotInBucket, match="no-bucket"):
        ledger_at(url.replace(s3_server.BUCKET, "no-bucket"), tmp_path).append(END)


def test_an_object_that_is_too_large_is_not_read(bucket, tmp_path):
    bucket.s3.put_object(Bucket=s3_server.BUCKET, Key=f"large/{FOLDER}/2026-11.jsonl", Body=bytes(MAX_BYTES + 1))
    ledger = ledger_at(bucket.backend("/large"), tmp_path)
    with pytest.raises(OSError, match=f"more than {MAX_BYTES} bytes"):
        ledger.events()
    with pytest.raises(NotInBucket, match="more than"):
        ledger.append(RENT)


def test_lines_of_others_spoil_no_event(bucket, tmp_path):
    url = bucket.backend("/foreign")
    ledger_at(url, tmp_path).append(RENT)
    key = f"foreign/{FOLDER}/2026-11.jsonl"
    body = bucket.read(key) + '[1]\n{"kind": "other"}\n{"kind": "end", "inst'
    bucket.s3.put_object(Bucket=s3_server.BUCKET, Key=key, Body=body.encode())
    ledger_at(url, tmp_path).append(replace(END, at=T + 1))
    assert ledger_at(url, tmp_path).events() == [RENT, replace(END, at=T + 1)]


class Azure(BaseHTTPRequestHandler):
    """A container without blobs. `puts`: path, Authorization and body of each blob that is put."""

    protocol_version = "HTTP/1.1"
    puts: ClassVar = []

    def do_GET(self):
        self.answer(404)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.puts.append((self.path, self.headers["Authorization"], body))
        self.answer(201)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("ETag", '"1"')
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_container_of_azure_takes_the_account_and_key_that_pulumi_takes(tmp_path, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Azure) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account")
        monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
        place = f"protocol=http&domain=127.0.0.1:{server.server_port}&localemu=true"
        ledger_at(f"azblob://with-a-key?{place}", tmp_path).append(RENT)
        server.shutdown()
    [(path, authorization, body)] = Azure.puts
    assert path == f"/account/with-a-key/{FOLDER}/2026-11.jsonl"
    assert authorization.startswith("SharedKey account:")
    assert parse_lines(body) == [RENT]


def test_a_signature_in_a_url_is_in_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2026&sig=private-signature")
    place = "protocol=http&domain=127.0.0.1:9&localemu=true"
    ledger = ledger_at(f"azblob://container?storage_account=account&{place}", tmp_path)
    with pytest.raises(NotInBucket, match="azblob://container") as told:
        ledger.append(RENT)
    assert "private-signature" not in str(told.value) + repr(ledger)


@pytest.mark.parametrize("url", ["azblob://container", "gs://bucket"])
def test_a_bucket_without_credentials_costs_no_event_and_stops_no_deployment(tmp_path, monkeypatch, url):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "no-file.json"))
    ledger = ledger_at(url, tmp_path)
    with pytest.raises(NotInBucket):
        ledger.append(RENT)
    assert ledger.local.events() == [RENT]


def test_keys_of_a_profile_of_aws_are_read(bucket, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    (tmp_path / "credentials").write_text("[team]\naws_access_key_id = not-a-key\naws_secret_access_key = a%secret\n")
    between = Between(bucket)
    try:
        ledger_at(bucket.backend("/profile", between.address) + "&profile=team", tmp_path).append(RENT)
        monkeypatch.setenv("AWS_PROFILE", "team")
        ledger_at(bucket.backend("/by-variable", between.address), tmp_path).append(RENT)
    finally:
        between.listening.close()
    assert len(between.signed_by) == 4
    assert set(between.signed_by) == {b"not-a-key"}


def test_a_bucket_that_has_failed_is_not_waited_for_again_by_the_next_events(tmp_path):
    asked = []

    def refuse(connection, _stopped):
        asked.append(connection.recv(1 << 16))
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with server(refuse) as url:
        ledger = ledger_at(f"s3://bucket?region=us-east-1&endpoint={url}", tmp_path)
        for _ in range(3):
            with pytest.raises(NotInBucket, match="403"):
                ledger.append(RENT)
        with pytest.raises(OSError, match="403"):
            ledger.events()
    assert len(asked) == 1
    assert ledger.local.events() == [RENT] * 3


def test_with_credentials_that_may_only_read_the_ledger_is_read_and_new_events_are_kept_in_the_checkout(
    bucket, tmp_path
):
    ledger_at(bucket.backend("/read-only"), tmp_path).append(RENT)
    between = Between(bucket, may_put=False)
    try:
        ledger = ledger_at(bucket.backend("/read-only", between.address), tmp_path)
        assert "403" in append_all(ledger, [END, replace(END, at=T + 121)])
        assert ledger.events() == [RENT, END, replace(END, at=T + 121)]
    finally:
        between.listening.close()
    assert between.puts == 1
    assert ledger_at(bucket.backend("/read-only"), tmp_path / "elsewhere").events() == [RENT]
    assert append_all(ledger_at(bucket.backend("/read-only"), tmp_path), [END]) == ""


@pytest.mark.all
def test_a_bucket_that_hangs_holds_an_up_for_no_longer_than_its_deadline(bucket, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ledger = ledger_at(bucket.backend("", f"127.0.0.1:{silent.getsockname()[1]}"), tmp_path)
        began = time.monotonic()
        with pytest.raises(NotInBucket):
            ledger.append(RENT)
    assert time.monotonic() - began < 45
