"""A CONNECT proxy that connects https://console.vast.ai to an emulator, for clients with this fixed address.

The certificate is signed by a CA of the test; the environment of the client contains its file.
"""

import asyncio
import contextlib
import ssl
import threading
from urllib.parse import urlsplit

from components.vast.identity import Authority

HOST = "console.vast.ai"


def make_tls_context(folder):
    """Return a server's TLS context for HOST; write the CA to ca.pem in a folder."""
    authority = Authority.make("a test")
    (folder / "ca.pem").write_text(authority.certificate)
    certificate, key = authority.issue(HOST).pem()
    (folder / "server.pem").write_text(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


async def pipe(reader, writer, host=None):
    """Forward bytes; replace the Host header by `host` for the emulator, which accepts only its own name."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data.replace(b"Host: %s\r\n" % HOST.encode(), b"Host: %s\r\n" % host) if host else data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def vast_proxy(url, folder):
    """Run it during a block; yield environment variables for a client."""
    target, context, loop = urlsplit(url), make_tls_context(folder), asyncio.new_event_loop()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if head.split()[:2] != [b"CONNECT", f"{HOST}:443".encode()]:
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.start_tls(context)
        upstream_reader, upstream_writer = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(pipe(reader, upstream_writer, target.netloc.encode()), pipe(upstream_reader, writer))

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port, ca = server.sockets[0].getsockname()[1], str(folder / "ca.pem")
    try:
        yield {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "REQUESTS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca}
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        server.close()
        loop.close()
