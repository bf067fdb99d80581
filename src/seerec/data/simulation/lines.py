"""Delimited text files written in chunks of columns, no row ever being a Python object."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Lines:
    """A text file with a header; texts are written as they are given."""

    def __init__(self, path: Path, columns: Sequence[str], separator: str = ",") -> None:
        self._file = path.open("wb")
        self._separator = separator
        self._file.write((separator.join(columns) + "\n").encode())

    def write(self, *columns: Any) -> None:
        """Append rows: Arrow arrays of texts, arrays of whole numbers (NumPy's or Arrow's)."""
        texts = [pa.array(column).cast(pa.string()) for column in columns]
        texts[-1] = pc.binary_join_element_wise(texts[-1], "", "\n")
        rows = pc.binary_join_element_wise(*texts, self._separator)
        _, offsets, content = rows.buffers()
        end = np.frombuffer(offsets, np.int32, len(rows) + 1)[-1]
        self._file.write(memoryview(content)[:end])

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
