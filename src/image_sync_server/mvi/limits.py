"""How much the server takes: every limit in one place."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on what a client may send; all sizes in bytes.

    Attributes:
        body: one request's whole body; more is answered with 413.
        json: a JSON body, or all plain fields of a form together.
        parts: parts of one form.
        memory: what the parts of one form may hold in memory before they go to disk.
        picture: one picture; pixels: its width times its height, read from its header.
        zip_members, zip_member, zip_total: entries of an archive, one entry, and all of them unpacked.
        zip_ratio: how many times an entry may grow when unpacked; pictures hardly do.
        name: characters of a name.
        connections: open connections; beyond that the one that has been silent for the longest time is closed.
        silence: seconds until a connection is closed whose headers are not whole, or whose body does not go on.
        points: entries kept of a training's curve; when there are more, every other one is dropped.
        journal: requests remembered by the journal.
    """

    body: int = 2048 * _MIB
    json: int = 16 * _MIB
    parts: int = 10_000
    memory: int = 8 * _MIB
    picture: int = 256 * _MIB
    pixels: int = 50_000_000
    zip_members: int = 50_000
    zip_member: int = 256 * _MIB
    zip_total: int = 4096 * _MIB
    zip_ratio: int = 100
    name: int = 255
    connections: int = 500
    silence: float = 20.0
    points: int = 400
    journal: int = 10_000
