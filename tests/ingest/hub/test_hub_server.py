"""The tests' Hub answers the library's own calls, so what the ingest is tested against is what the library expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ingest.hub.server import HubServer

Peft = Callable[..., dict[str, bytes]]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def api(hub: HubServer, peft: Peft):  # type: ignore[no-untyped-def]
    from huggingface_hub import HfApi

    for number in range(5):
        hub.add(f"user/lora{number}", peft(number), card={"license": "mit", "base_model": "some/base"})
    hub.collections["user/best-1"] = [("model", "user/lora3")]
    return HfApi(endpoint=hub.url)


def test_lists_and_descriptions(hub: HubServer, api) -> None:  # type: ignore[no-untyped-def]
    hub.page = 2
    found = list(api.list_models(author="user", expand=["sha", "siblings", "cardData"]))
    assert [m.id for m in found] == [f"user/lora{number}" for number in range(5)]
    assert hub.count("api") == 3
    assert found[0].sha == api.model_info("user/lora0").sha == hub.repos["user/lora0"].commit
    assert sorted(s.rfilename for s in found[0].siblings) == ["README.md", "adapter_config.json", WEIGHTS]
    assert found[0].card_data.license == "mit"
    assert len(list(api.list_models(filter="base_model:adapter:some/base"))) == 5
    assert [item.item_id for item in api.get_collection("user/best-1").items] == ["user/lora3"]


def test_files(hub: HubServer, api, peft: Peft) -> None:  # type: ignore[no-untyped-def]
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    tree = {entry.path: entry for entry in api.list_repo_tree("user/lora1", recursive=True)}
    told = get_hf_file_metadata(hf_hub_url("user/lora1", WEIGHTS))
    assert told.etag == tree[WEIGHTS].lfs.sha256
    assert told.size == tree[WEIGHTS].size == len(peft(1)[WEIGHTS])
    assert told.commit_hash == hub.repos["user/lora1"].commit
    card = get_hf_file_metadata(hf_hub_url("user/lora1", "README.md"))
    assert (card.etag, card.size) == (tree["README.md"].blob_id, tree["README.md"].size)
    for name, data in peft(1).items():
        assert Path(api.hf_hub_download("user/lora1", name)).read_bytes() == data
    header = api.parse_safetensors_file_metadata("user/lora1", WEIGHTS)
    assert len(header.tensors) == 4


def test_errors_are_the_librarys(hub: HubServer, api, peft: Peft) -> None:  # type: ignore[no-untyped-def]
    from huggingface_hub import errors

    hub.add("user/gated", peft(), gated=True)
    hub.rename("user/lora4", "user/zoo")
    with pytest.raises(errors.GatedRepoError):
        api.hf_hub_download("user/gated", WEIGHTS)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("user/none")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info("user/lora1", revision="v9")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        api.hf_hub_download("user/lora1", "none.txt")
    assert api.model_info("user/lora4").id == "user/zoo"


def test_the_library_accepts_wrong_bytes_and_the_log_shows_them(hub: HubServer, api, peft: Peft) -> None:  # type: ignore[no-untyped-def]
    hub.fault("user/lora0", "wrong-bytes", times=1)
    hub.forget()
    found = Path(api.hf_hub_download("user/lora0", WEIGHTS)).read_bytes()
    assert found != peft(0)[WEIGHTS] and len(found) == len(peft(0)[WEIGHTS])
    assert hub.sent("user/lora0", WEIGHTS) == len(found)
