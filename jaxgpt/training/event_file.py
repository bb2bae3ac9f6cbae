"""TensorBoard's event files, as bytes: records of protocol buffers, each with two checksums.

Written here because tensorboardX (2.6.5) hands events to a thread through a queue of ten: on a full disk the thread
dies, the queue fills, and training waits for ever. It also imports torch where that is installed.
Formats: tensorflow/core/lib/io/record_writer.h; event.proto and summary.proto in tensorflow/core.
"""

import struct
from functools import cache


def first_events(wall_time: float, purge_step: int) -> bytes:
    """What a file begins with: its version, and from which step on what older files say is undone."""
    version = _bytes(3, b"brain.Event:2")
    start_of_session = _bytes(7, _number(1, 1))
    return record(_double(1, wall_time) + version) + record(
        _double(1, wall_time) + _number(2, purge_step) + start_of_session
    )


def scalars(wall_time: float, step: int, values: dict[str, float]) -> bytes:
    """One event with a number for each name."""
    summary = b"".join(_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in values.items())
    return record(_double(1, wall_time) + _number(2, step) + _bytes(5, summary))


def record(data: bytes) -> bytes:
    """Length, its checksum, the data, their checksum."""
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def masked_crc(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as in TensorFlow's records."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial, reversed
        return value

    return tuple(map(entry, range(256)))


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
