"""A Hub of the tests' own, and the library in this process pointed at it; waits last a thousandth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingest.hub.server import HubServer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import close_session, constants

    from ingest.hub import calls

    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_ENDPOINT",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(calls, "SECOND", 0.001)
    with HubServer() as server:
        for key, value in server.environment(tmp_path / "hf").items():
            name = key.removeprefix("HF_") if key == "HF_ENDPOINT" else key
            if hasattr(constants, name):
                monkeypatch.setattr(constants, name, value)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
        close_session()
