"""A CA for client certificates: for tests of servers that require one."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

DAY_S = 86400.0


class ClientCa:
    def __init__(self, name="the clients' CA"):
        self.key, self.name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string(f"CN={name}")
        self.pem = self._sign(self.name, self.key.public_key(), x509.BasicConstraints(ca=True, path_length=0), DAY_S)

    def issue(self, folder, usage=x509.OID_CLIENT_AUTH, ends_in_s=DAY_S):
        """Return the files of a certificate and its key."""
        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=a client")
        certificate = self._sign(name, key.public_key(), x509.ExtendedKeyUsage([usage]), ends_in_s)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        stem = f"{id(self)}-{usage.dotted_string}-{ends_in_s:g}"
        files = folder / f"{stem}.pem", folder / f"{stem}.key"
        files[0].write_text(certificate)
        files[1].write_bytes(text)
        return files

    def _sign(self, name, key, extension, ends_in_s):
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self.name, name, key, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(seconds=ends_in_s))
        builder = builder.add_extension(extension, critical=True)
        return builder.sign(self.key, SHA256()).public_bytes(serialization.Encoding.PEM).decode()
