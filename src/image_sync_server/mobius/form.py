"""The part ``data`` of a multipart form."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header


def data_of(content_type: str, body: bytes) -> bytes | None:
    """The content of the form's part ``data``, or None if there is none."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        return None
    header, name, found = (bytearray(), bytearray()), b"", bytearray()
    seen = False

    def begin() -> None:
        nonlocal name
        name = b""

    def header_end() -> None:
        nonlocal name
        if bytes(header[0]).lower() == b"content-disposition":
            name = parse_options_header(bytes(header[1]))[1].get(b"name", b"")
        header[0].clear()
        header[1].clear()

    def data(raw: bytes, start: int, end: int) -> None:
        nonlocal seen
        if name == b"data":
            seen = True
            found.extend(raw[start:end])

    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": begin,
            "on_header_field": lambda raw, start, end: header[0].extend(raw[start:end]),
            "on_header_value": lambda raw, start, end: header[1].extend(raw[start:end]),
            "on_header_end": header_end,
            "on_part_data": data,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        return None
    return bytes(found) if seen else None
