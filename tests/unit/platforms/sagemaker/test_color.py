"""Pictures as an endpoint takes them."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from image_sync.errors import Refused
from image_sync.platforms.sagemaker import color
from support.pictures import drawn, encoded


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "RGB"])
def test_pictures_for_an_endpoint(mode: str) -> None:
    """They arrive as RGB, small enough, with the content type that they have."""
    kind = "JPEG" if mode in {"L", "CMYK", "RGB"} else "PNG"
    content, content_type = color.fitting(encoded(drawn(40, 30).convert(mode), kind), 10**6)

    assert Image.open(io.BytesIO(content)).mode == "RGB"
    assert content_type == "image/jpeg"


def test_a_picture_that_breaks_off_is_refused() -> None:
    """Its header is sound, its content cannot be decoded."""
    whole = encoded(drawn(200, 200, mode="L"), "JPEG")

    with pytest.raises(Refused, match="cannot be decoded"):
        color.fitting(whole[: len(whole) // 2], 10**6)
    with pytest.raises(Refused):
        color.size_of(b"x")
