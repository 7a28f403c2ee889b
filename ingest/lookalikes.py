"""What lies under a safetensors file's name and is none, told from its first bytes."""

from __future__ import annotations

from ingest.errors import Refusal
from ingest.reasons import Reason

# First bytes of a text, in lower case and without leading blanks → what the file is.
_TEXTS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"version https://git-lfs",),
        "is a Git LFS pointer, not the weights; fetch them with `git lfs pull`",
    ),
    (
        (b"<!doctype", b"<html", b"<?xml", b"<head"),
        "is a web page, not weights; download the file itself (a login may be needed)",
    ),
    (
        (b'{"error', b'{ "error', b"entry not found", b"not found", b"access to model", b"unauthorized"),
        "holds a server's error message, not weights; download it again",
    ),
)
_LINKS = (b"http://", b"https://")
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def lookalike(head: bytes, where: str) -> Refusal | None:
    """The refusal of a file that is something else, None if nothing known.

    Parameters
    ----------
    head
        The file's first bytes, some hundred.
    where
        The file's name, for the message.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginnings, what in _TEXTS:
        if text.startswith(beginnings):
            return Refusal(Reason.UNREADABLE, f"{where} {what}")
    if text.startswith(_LINKS):
        link = ascii(head.decode("utf-8", "replace").split()[0][:100])
        return Refusal(Reason.UNREADABLE, f"{where} holds a web link ({link}), not weights; download what it points to")
    if head.startswith(_PICKLES):
        return Refusal(
            Reason.PICKLE, f"{where} is a PyTorch pickle under a safetensors name; convert it to safetensors"
        )
    if head.startswith(b"GGUF"):
        return Refusal(Reason.UNREADABLE, f"{where} is a GGUF file; convert it back to safetensors")
    return None
