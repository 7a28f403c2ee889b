"""Sources on the Hub: which texts mean it, and what they mean."""

from __future__ import annotations

import pytest

from ingest.errors import EigenzooError
from ingest.hub.spec import HubSpec, is_hub, is_repo, parse_spec

SHA = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def hub_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.test")


@pytest.mark.parametrize(
    ("source", "spec"),
    [
        ("org/name", HubSpec("repo", "org/name")),
        ("hub:org/name", HubSpec("repo", "org/name")),
        ("org/name@v1.0", HubSpec("repo", "org/name", "v1.0")),
        ("hub:org/name@refs/pr/3", HubSpec("repo", "org/name", "refs/pr/3")),
        (f"org/name@{SHA}", HubSpec("repo", "org/name", SHA)),
        ("hub:org/name:sub/folder", HubSpec("repo", "org/name", None, "sub/folder")),
        ("hub:org/name@main:a b", HubSpec("repo", "org/name", "main", "a b")),
        ("hub:user", HubSpec("user", "user")),
        ("hub:Some_User-1.x", HubSpec("user", "Some_User-1.x")),
        ("hub:collection/user/loras-64f9a55bb3115b4f", HubSpec("collection", "user/loras-64f9a55bb3115b4f")),
        ("https://hub.test/collections/u/s-1", HubSpec("collection", "u/s-1")),
        ("https://hub.test/org/name", HubSpec("repo", "org/name")),
        ("https://hub.test/org/name/tree/v2/sub/dir", HubSpec("repo", "org/name", "v2", "sub/dir")),
        ("hub:base/org/model", HubSpec("base", "org/model")),
        ("hub:base/model", HubSpec("repo", "base/model")),
        ("hub:collection", HubSpec("user", "collection")),
    ],
)
def test_what_a_source_means(source: str, spec: HubSpec) -> None:
    assert is_hub(source)
    assert parse_spec(source) == spec


@pytest.mark.parametrize(
    "source",
    [
        "folder",
        "a/b/c",
        "./a",
        "../a/b",
        "/a/b",
        "~/b",
        "org/name.safetensors",
        "lists/adapters.txt",
        "zoos/mine.zarr",
        "a//b",
        "org/na me",
        "org/name@",
        "https://example.org/org/name",
        "http://[half",
        "ö/name",
        "org/na--me",
        "",
    ],
)
def test_what_is_no_source_on_the_hub(source: str) -> None:
    assert not is_hub(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hub:", "nothing on the Hub"),
        ("hub:a/b/c", "nothing on the Hub"),
        ("hub:../etc", "nothing on the Hub"),
        ("hub:a/..", "nothing on the Hub"),
        ("hub:a--b/c", "nothing on the Hub"),
        ("hub:org/name.git", "nothing on the Hub"),
        (f"hub:org/{'n' * 97}", "nothing on the Hub"),
        ("hub:org/name@", "is no branch"),
        ("hub:org/name@a b", "is no branch"),
        ("hub:org/name@../x", "is no branch"),
        ("hub:org/name:../x", "no folder"),
        ("hub:org/name:/x", "no folder"),
        ("hub:org/name:a\nb", "no folder"),
        ("hub:user@v1", "a user has no revision"),
        ("hub:collection/user/", "no collection"),
        ("hub:collection/user/a/b", "no collection"),
        ("hub:base/org/", "no base model"),
        ("hub:base/a/b/c", "no base model"),
    ],
)
def test_malformed_sources_are_one_line(source: str, said: str) -> None:
    with pytest.raises(EigenzooError, match=said) as caught:
        parse_spec(source)
    assert "\n" not in str(caught.value)
    assert "; give " in str(caught.value)


def test_the_endpoint_of_the_library_is_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_hub("http://mirror:8080/org/name")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://mirror:8080")
    assert parse_spec("http://mirror:8080/collections/u/s") == HubSpec("collection", "u/s")


def test_repository_names_follow_the_librarys_rules() -> None:
    validate = pytest.importorskip("huggingface_hub.utils").validate_repo_id
    for name in (
        "a/b",
        "a/b.c",
        "-a/b",
        "a/b-",
        "_a/_b",
        ".a/b",
        "a/b..c",
        "a/b--c",
        "a/b.git",
        "a b/c",
        "a/" + "b" * 97,
    ):
        try:
            validate(name)
            valid = True
        except ValueError:
            valid = False
        assert is_repo(name) == valid, name
