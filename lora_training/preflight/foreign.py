"""Recognize files whose content does not match their name, such as failed downloads."""

from __future__ import annotations

ENOUGH = 512
_PICTURES = {
    b"%!PS": "an EPS, for which Ghostscript would be started",
    b"\xc5\xd0\xd3\xc6": "an EPS, for which Ghostscript would be started",
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
}
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def kind(start: bytes) -> str | None:
    """Describe a file by its first `ENOUGH` bytes; None if they are not one of the known mistakes."""
    if not start:
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    if start.lstrip().lower().startswith(_PAGES):
        return "a web page, not the file itself"
    return "all zeros at its start" if len(start) == ENOUGH and not any(start) else None


def image(start: bytes) -> str | None:
    """Return the name of an image format that is often found under another format's file name."""
    return next((what for magic, what in _PICTURES.items() if start.startswith(magic)), None)


def mend(kind: str) -> str:
    """Return a hint for getting the right file."""
    return "`git lfs pull` fetches it" if "LFS" in kind else "fetch it again"
