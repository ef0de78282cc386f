"""Reading the metadata of a GGUF file. It needs the optional package gguf."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

__all__ = ["Reader"]


class Reader(GGUFReader):
    """gguf's reader, which takes an array of a file's metadata at once.

    Its own way, several slices of a memory-mapped file for each number and each string, takes half a minute for a
    vocabulary of 262,144 tokens with their scores and types. The fields are the same.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        of, count, start = int(kind[0]), int(length[0]), orig_offs + 12
        if raw_type != GGUFValueType.ARRAY or count == 0 or of == GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        types = [GGUFValueType.ARRAY, GGUFValueType(of)]
        if of != GGUFValueType.STRING:
            values = np.asarray(self._get(start, self.gguf_scalar_to_np[types[1]], count))
            return 12 + values.nbytes, [kind, length, *values.reshape(count, 1)], list(range(2, 2 + count)), types
        data, end, parts = np.asarray(self.data), start, [kind, length]
        unpack = struct.Struct(">Q" if kind.dtype.newbyteorder("=") != kind.dtype else "<Q").unpack_from
        for _ in range(count):
            size, text = end, end + 8
            end = text + unpack(data.data, size)[0]
            parts += data[size:text].view(length.dtype), data[text:end]
        return end - orig_offs, parts, list(range(3, 3 + 2 * count, 2)), types
