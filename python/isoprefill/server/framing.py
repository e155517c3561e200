"""Messages on a stream of bytes: each comes after its length, in four bytes."""

import struct

_LENGTH = struct.Struct("<I")


def framed(*messages: bytes) -> bytes:
    """Returns messages as they are written to a stream."""
    return b"".join(part for one in messages for part in (_LENGTH.pack(len(one)), one))


class Frames:
    """Cuts what is read from a stream into messages, wherever the pieces that were read end."""

    def __init__(self) -> None:
        """Begins at the beginning of a message."""
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Takes what was read next; returns the messages that are whole with it."""
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            source = self._rest
        messages, begin = [], 0
        with memoryview(source) as view:
            while (body := begin + _LENGTH.size) <= len(view):
                end = body + _LENGTH.unpack_from(view, begin)[0]
                if end > len(view):
                    break
                messages.append(bytes(view[body:end]))
                begin = end
        if source is data:
            self._rest += data[begin:]
        else:
            del self._rest[:begin]
        return messages
