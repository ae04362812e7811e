"""A CONNECT proxy: https://console.vast.ai, for clients whose code has that address, is an emulator of the test.

The certificate is signed by a CA of the test's own, in the file that `environment` names to the client.
"""

import asyncio
import contextlib
import ssl
import threading
from urllib.parse import urlsplit

from components.vast.identity import Authority

HOST = "console.vast.ai"


def context_of(folder):
    """A TLS context that is HOST for whoever trusts ca.pem in a folder."""
    authority = Authority.make("a test")
    (folder / "ca.pem").write_text(authority.certificate)
    certificate, key = authority.issue(HOST).pem()
    (folder / "server.pem").write_text(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


async def pipe(reader, writer, host=None):
    """Pass bytes on; the emulator answers under its own name alone, `host`."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data.replace(b"Host: %s\r\n" % HOST.encode(), b"Host: %s\r\n" % host) if host else data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def vast_proxy(url, folder):
    """Run it for the length of a block; yields the environment that a client is to have."""
    target, context, loop = urlsplit(url), context_of(folder), asyncio.new_event_loop()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if head.split()[:2] != [b"CONNECT", f"{HOST}:443".encode()]:
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.start_tls(context)
        far_reader, far_writer = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(pipe(reader, far_writer, target.netloc.encode()), pipe(far_reader, writer))

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
