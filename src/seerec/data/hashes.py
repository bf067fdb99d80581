"""What a corpus is known by: the hash of its content, and quick checksums of its files.

The hash is over names, types and values, so equal content has an equal hash however the files are written. Checksums are over the
bytes of the files, which is a hundred times as fast: enough to notice damage whenever a corpus is opened.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from seerec.data.arrays import read_array


def checksums(folder: Path, facts: dict[str, Any]) -> dict[str, str]:
    """XXH3-128 of every array and table below ``folder``, by name, and of ``facts`` under ``manifest``."""
    found = {"manifest": xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())}
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".npy", ".parquet"):
            content = np.memmap(file, np.uint8, mode="r") if file.stat().st_size else np.zeros(0, np.uint8)
            found[file.relative_to(folder).as_posix()] = xxhash.xxh3_128_hexdigest(content.data)
    return found


def hash_content(folder: Path, parameters: dict[str, Any]) -> str:
    """SHA-256 over names, types and content of all arrays and tables below ``folder`` and over ``parameters``."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".npy":
            _hash_array(digest, name, read_array(file))
        elif file.suffix == ".parquet":
            for column in pq.read_schema(file).names:  # one at a time: texts of items need much room
                _hash_column(digest, f"{name}/{column}", pq.read_table(file, columns=[column])[column])
    return digest.hexdigest()


def _hash_array(digest: "hashlib._Hash", name: str, array: NDArray[Any]) -> None:
    digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _hash_column(digest: "hashlib._Hash", name: str, column: pa.ChunkedArray) -> None:
    _hash_array(digest, name, column.is_valid().to_numpy())
    if not pa.types.is_string(column.type):
        _hash_array(digest, "value", pc.fill_null(column, 0).to_numpy())
        return
    _hash_array(digest, "length", pc.fill_null(pc.binary_length(column), 0).to_numpy())
    for chunk in pc.fill_null(column, "").chunks:
        _, ends, texts = chunk.buffers()
        if texts is not None:
            offset = np.frombuffer(ends, np.int32)
            digest.update(memoryview(texts)[offset[chunk.offset] : offset[chunk.offset + len(chunk)]])
