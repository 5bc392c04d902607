"""Rows as Parquet, a row group at a time: what is in memory is bounded by bytes, not by rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from worker.archive.files import Written
from worker.errors import SettingsError
from worker.store.exports import Kind

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as error:
    raise SettingsError(
        "--format parquet needs pyarrow, which is not installed: pip install 'ringonce[parquet]'"
    ) from error

__all__ = ["write"]

GROUP_ROWS: Final = 10_000
GROUP_BYTES: Final = 16 << 20
"""A row group is written once it holds so many rows, or so many bytes: an operation may have two million."""

_TYPES: Final[dict[Kind, Any]] = {
    "int": pa.int64(),
    "text": pa.string(),
    "bytes": pa.binary(),
    "time": pa.timestamp("us", tz="UTC"),
    "bool": pa.bool_(),
}


def write(file: Written, columns: Mapping[str, Kind], rows: Iterable[tuple[Any, ...]]) -> int:
    """Write *rows* of these *columns* into *file*; returns how many there were."""
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()])
    count, size = 0, 0
    group: list[tuple[Any, ...]] = []
    with pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema, compression="zstd") as writer:
        for row in rows:
            group.append(row)
            count += 1
            size += sum(len(value) for value in row if isinstance(value, str | bytes))
            if len(group) == GROUP_ROWS or size >= GROUP_BYTES:
                _flush(writer, schema, group)
                group, size = [], 0
        if group:
            _flush(writer, schema, group)
    return count


def _flush(writer: Any, schema: Any, group: list[tuple[Any, ...]]) -> None:  # noqa: ANN401 - pyarrow has no types
    columns = zip(*group, strict=True)
    arrays = [pa.array(values, type=each.type) for values, each in zip(columns, schema, strict=True)]
    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
