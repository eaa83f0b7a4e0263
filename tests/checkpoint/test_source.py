"""WHERE: what each spelling means, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncrate.checkpoint.source import HubSource, LocalSource, parse_source
from uncrate.errors import UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "text", [".", "..", "./x", "../x", "/x/y", "./owner/name", "~", "~/x", "./a b", "./模型", "./-x"]
)
def test_folders(text: str) -> None:
    source = parse_source(text)
    assert isinstance(source, LocalSource)
    assert str(source) == text
    assert source.folder == Path(text).expanduser()


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("THUDM/glm-4v-9b", "THUDM/glm-4v-9b", None),
        ("owner/name@main", "owner/name", "main"),
        (f"owner/name@{COMMIT}", "owner/name", COMMIT),
        ("owner/name@refs/pr/1", "owner/name", "refs/pr/1"),
        ("o_1/n.2-x", "o_1/n.2-x", None),
        ("https://huggingface.co/THUDM/glm-4v-9b", "THUDM/glm-4v-9b", None),
        ("https://huggingface.co/THUDM/glm-4v-9b/tree/main", "THUDM/glm-4v-9b", "main"),
        ("https://hf.co/o/n/tree/refs%2Fpr%2F1", "o/n", "refs/pr/1"),
        ("https://huggingface.co/o/n/tree/refs/pr/1?x=y", "o/n", "refs/pr/1"),
        (f"https://huggingface.co/o/n/commit/{COMMIT}", "o/n", COMMIT),
        ("hf://o/n@main", "o/n", "main"),
    ],
)
def test_the_hub(text: str, repo: str, revision: str | None) -> None:
    source = parse_source(text)
    assert source == HubSource(repo, revision)
    assert parse_source(str(source)) == source
    assert source.pinned == (revision == COMMIT)


def test_a_folder_in_the_working_directory_shadows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_source("owner/name") == HubSource("owner/name")
    bundled = parse_source("nano")
    assert isinstance(bundled, LocalSource)
    assert bundled.folder.parent.name == "uncrate"
    assert str(bundled) == "nano"


def test_a_path_is_a_folder_by_its_type() -> None:
    source = parse_source(Path("owner/name"))
    assert source == LocalSource(Path("owner/name"), "./owner/name")
    assert parse_source(str(source)) == LocalSource(Path("./owner/name"), "./owner/name")
    assert str(parse_source(Path("/x"))) == "/x"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("gpt2", "./gpt2"),
        ("model.safetensors", "OWNER/model.safetensors"),
        ("a/b/c", "./a/b/c"),
        ("a\\b", "a\\b"),
        ("..\\x/y", "backslash"),
        ("C:\\models", "hub id"),
        ("o/n@", "follows @"),
        ("o/n@a..b", "branch, tag or commit"),
        ("o/n@-x", "branch, tag or commit"),
        ("o/n@a b", "branch, tag or commit"),
        ("o/n@/x", "branch, tag or commit"),
        ("o/n@" + "x" * 300, "branch, tag or commit"),
        ("o--x/n", "--"),
        ("o/n..m", ".."),
        ("-o/n", "either end"),
        ("o/n.", "either end"),
        ("o/" + "n" * 97, "96"),
        ("o/n.git", "write o/n"),
        ("оwner/name", "a-z"),
        ("o/n\x1b[31m", "\\u001b"),
        ("o/n\0", "\\u0000"),
        ("https://example.com/o/n", "not an address of the hub"),
        ("https://huggingface.co/datasets/o/n", "model repository"),
        ("https://huggingface.co/o", "model repository"),
        ("https://huggingface.co/o/n/blob/main/config.json", "write o/n"),
        ("ftp://huggingface.co/o/n", "not an address of the hub"),
        ("https://[::1/o/n", "not an address"),
    ],
)
def test_mistakes_are_told_with_what_to_write(text: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert part in str(caught.value)
    assert caught.value.next
    assert "\x1b" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_source_that_prints_back_or_a_usage_error(text: str) -> None:
    try:
        source = parse_source(text)
    except UsageError:
        return
    assert parse_source(str(source)) == source
