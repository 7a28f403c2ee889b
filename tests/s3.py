"""A real S3 protocol server for tests: a process of its own, found through the environment like any other."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

_numbers = itertools.count()


def start_server(port: int) -> subprocess.Popen[bytes]:
    """Start one, and wait until it answers."""
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"the S3 server ended with {server.returncode}; is moto[server] installed?")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
            return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    server.kill()
    raise RuntimeError("the S3 server does not answer")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Its address; while it runs, the environment of this process and its children names it."""
    pytest.importorskip("moto.server")
    pytest.importorskip("obstore")
    port = free_port()
    server = start_server(port)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield settings["AWS_ENDPOINT_URL"]
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """A URL below a bucket of the test's own."""
    bucket = f"bucket-{os.getpid()}-{next(_numbers)}"
    request = urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, x=y")
    urllib.request.urlopen(request, timeout=30).close()
    return f"s3://{bucket}/some/zoo"
