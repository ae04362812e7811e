"""An S3 server on loopback, with one bucket."""

import logging
import re
import socket
import threading
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "pulumi-state"
ENV = {
    "AWS_ACCESS_KEY_ID": "not-a-key",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    # or the SDK warns at each read of a server that sends no checksum
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


class Bucket:
    """One bucket, and what is in it. `address`: host and port."""

    def __init__(self, address):
        self.address = address
        self.s3 = boto3.client(
            "s3", endpoint_url=f"http://{address}", region_name="us-east-1",
            aws_access_key_id=ENV["AWS_ACCESS_KEY_ID"], aws_secret_access_key=ENV["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        self.s3.create_bucket(Bucket=BUCKET)

    def backend(self, folder="", address=None):
        """Return the URL of a backend in a folder of this bucket, as Pulumi takes it."""
        query = f"region=us-east-1&endpoint={address or self.address}&disableSSL=true&s3ForcePathStyle=true"
        return f"s3://{BUCKET}{folder}?{query}"

    def keys(self, prefix):
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [one["Key"] for one in found]

    def read(self, key):
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


class Between:
    """A TCP proxy to an S3 server. `cuts`: how many answers to a PUT it does not pass on. Without `may_put` it answers
    each PUT as S3 does without the permission. `signed_by`: the access key of each request."""

    def __init__(self, bucket, cuts=0, *, may_put=True):
        host, port = bucket.address.split(":")
        self.behind, self.cuts, self.puts, self.signed_by = (host, int(port)), cuts, 0, []
        self.may_put = may_put
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, socket.create_connection(self.behind) as server:
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
            while data := server.recv(1 << 16):
                if self.puts and self.cuts:
                    self.cuts -= 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    def _pass_on(self, client, server):
        try:
            while data := client.recv(1 << 16):
                self.puts += data.startswith(b"PUT ")
                if data.startswith(b"PUT ") and not self.may_put:
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    client.shutdown(socket.SHUT_WR)
                    return
                self.signed_by += re.findall(rb"Credential=([^/]+)/", data)
                server.sendall(data)
        except OSError:
            return


@contextmanager
def running():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        yield Bucket("{}:{}".format(*server.get_host_and_port()))
    finally:
        server.stop()
