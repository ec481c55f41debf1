"""Files of weights that are none, as feature networks find them."""

from __future__ import annotations

from pathlib import Path

import pytest

from coronet_deploy.errors import BadInput
from coronet_deploy.verify.inception import read_inception


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02.",
        b"\x80\x02h\x07.",
        b"\x80\x02}(.",
        b"\x80\x04\x95\x00\x00",
        b"\x80\x02X\x05\x00",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02K\x01b.",
        b"PK\x03\x04" + bytes(40),
        b"<!DOCTYPE html><html></html>",
    ],
)
def test_a_file_that_is_no_torch_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "inception.pth"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a whole torch file") as refused:
        read_inception(path)
    assert str(path) in refused.value.what
