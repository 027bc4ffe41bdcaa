"""An S3 server of the tests' own, by moto: a process on loopback, gone with the tests."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""
"""It ends with its stdin, so also when the tests are killed."""


class S3Server:
    """The server at `url`, with an administration of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def make_bucket(self, name: str) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")).close()

    def check_credentials(self, is_on: bool) -> None:
        """Refuse all credentials from now on, because the server knows none; or accept all again."""
        free_requests = b"0" if is_on else b"inf"
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}/moto-api/reset-auth", free_requests, headers, method="POST")
        urllib.request.urlopen(request).close()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    """The server; the variables of this process lead to it."""
    if find_spec("moto") is None:
        pytest.skip("moto, which is an S3 server for tests, is in the extra `test-cloud`")
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = S3Server(process.stdout.readline().strip())
        variables = {
            "AWS_ENDPOINT": server.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "a secret of the tests",
            "AWS_REGION": "us-east-1",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            yield server
        process.stdin.close()
        assert process.wait(60) == 0


__all__ = ["S3Server", "s3_server"]
