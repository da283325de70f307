"""Whether a file is text at all, in UTF-8, and where it is not."""

from pathlib import Path

from cellwright.app.errors import InputError

__all__ = ["not_utf8", "require_text"]

HEAD = 4096
SIGNATURES = {
    b"\x1f\x8b": ("a gzip archive", "unpack it: gunzip"),
    b"PK\x03\x04": ("a ZIP archive, as an Excel sheet is one", "unpack it, or export the sheet"),
    b"\xff\xfe": ("text in UTF-16", "save it as UTF-8: iconv -f utf-16 -t utf-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8: iconv -f utf-16 -t utf-8"),
}
"""How files begin that are often taken for text: what they are, and the remedy."""


def require_text(path: Path) -> None:
    """Raise if a file that should be text begins as none does."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    for signature, (what, remedy) in SIGNATURES.items():
        if head.startswith(signature):
            raise InputError(f"expected text in UTF-8, but got {what}; {remedy}", file=path)
    if b"\0" in head:
        raise InputError(
            f"expected text in UTF-8, but byte {head.index(0) + 1} of the file is 0, as in no "
            "text; convert it, or read it by bytes (--task text --unit byte)",
            file=path,
        )


def not_utf8(path: Path) -> InputError:
    """The error that names the first line that is not UTF-8."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return InputError(
                    f"expected text in UTF-8, but byte {error.start + 1} of the line is "
                    f"0x{line[error.start]:02x}; save the file as UTF-8 (of Latin-1: iconv -f "
                    "latin1 -t utf-8), or name one that is text",
                    file=path,
                    row=number,
                )
    return InputError("expected text in UTF-8; save the file as UTF-8", file=path)
