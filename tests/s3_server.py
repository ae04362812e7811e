"""An S3 server on loopback, with one bucket."""

import logging
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


@contextmanager
def running():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        yield Bucket("{}:{}".format(*server.get_host_and_port()))
    finally:
        server.stop()
