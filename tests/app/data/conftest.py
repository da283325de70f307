"""Failing input as text files, and the check of what is said about it."""

import re
from pathlib import Path

import pytest

from cellwright.app.errors import InputError


@pytest.fixture
def write(tmp_path):
    """Write a file of some name and return its path."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


@pytest.fixture
def refused():
    """Check that a call raises InputError whose message begins with a place and holds words."""

    def check(call, *words: str, place: str = ""):
        with pytest.raises(InputError) as caught:
            call()
        message = str(caught.value)
        assert place in message.partition(": expected")[0], message
        assert re.search(r"expected .*(; |\bbut )", message, re.DOTALL), message
        for word in words:
            assert word in message, message

    return check
