"""stunnel at both ends of a connection, for programs that speak no TLS, as docs/howto/security.md describes it."""

import contextlib
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.integration.serving import SECONDS

needs_stunnel = pytest.mark.skipif(shutil.which("stunnel") is None, reason="stunnel is not installed")


@contextlib.contextmanager
def server_end(certificates: Certificates, socket: Path) -> Iterator[str]:
    """Pass what comes by TLS on to the Unix socket of a server; yields where to connect."""
    lines = [f"cert = {certificates('server')}", "accept = 127.0.0.1:0", f"connect = {socket}"]
    with _running(certificates, lines, Path(f"{socket}.server-end")) as accepting:
        yield accepting


@contextlib.contextmanager
def client_end(certificates: Certificates, client: str, server: str, accept: str, path: Path) -> Iterator[str]:
    """Pass what comes to `accept` on to the server by TLS, with the certificate of this client."""
    lines = [f"cert = {certificates(client)}", "client = yes", "checkHost = localhost"]
    lines += [f"accept = {accept}", f"connect = {server}"]
    with _running(certificates, lines, path) as accepting:
        yield accepting


@contextlib.contextmanager
def _running(certificates: Certificates, lines: list[str], path: Path) -> Iterator[str]:
    common = ["debug = 6", "foreground = yes", "pid =", "[durus]", "sslVersionMin = TLSv1.3"]
    common += ["verifyChain = yes", f"CAfile = {certificates('ca')}"]
    path.write_text("\n".join([*common, *lines, ""]))
    command = ["stunnel", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "Accepting new connections" in line:
                break
        found = re.search(r"bound to (?:localhost:)?(\S+)", said)
        assert found, said
        reading = threading.Thread(target=process.stdout.read)
        reading.start()
        try:
            yield found[1]
        finally:
            process.terminate()
            process.wait(SECONDS)
            reading.join(SECONDS)
