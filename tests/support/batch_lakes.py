"""Lakes of random rows, jobs over them, and what came of these."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isoprefill.batch.columns import InputColumns
from isoprefill.batch.job_request import JobRequest
from isoprefill.batch.ray_session import RaySettings
from isoprefill.batch.scoring_settings import ScoringSettings

_WORDS = ["red", "sea", "blue", "tree", "stone", "moon", "cat", "old"]


def lake(rows: int, queries: int, *, hot: float = 0.0, seed: int = 0) -> pa.Table:
    """Rows of random queries and items; a share `hot` of all has the first query."""
    rng = np.random.default_rng(seed)
    words = np.asarray(_WORDS, object)
    texts = np.asarray(
        [f"{' '.join(words[rng.integers(0, 8, 3)])} {one}" for one in range(queries)], object
    )
    chosen = rng.integers(0, queries, rows)
    chosen[rng.random(rows) < hot] = 0
    first, second = rng.integers(0, 8, (2, rows))
    return pa.table(
        {
            "id": np.arange(rows),
            "query": pa.array(texts[chosen]),
            "item": pa.array(" " + words[first] + " " + words[second]),
        }
    )


def write_lake(table: pa.Table, directory: Path, files: int = 2, row_group: int = 20_000) -> Path:
    """Writes a table as several files of Parquet; returns their directory."""
    directory.mkdir(parents=True, exist_ok=True)
    size = -(-table.num_rows // files)
    for number in range(files):
        part = table.slice(number * size, size)
        pq.write_table(part, directory / f"{number}.parquet", row_group_size=row_group)
    return directory


def request(lake: Path, output: Path, model: Path, **changes: Any) -> JobRequest:
    """A job on one thread; `changes` are fields of the request or of its settings."""
    scoring = {
        name: changes.pop(name)
        for name in list(changes)
        if name in ScoringSettings.__dataclass_fields__
    }
    return JobRequest(
        **{
            "inputs": (str(lake),),
            "output": str(output),
            "columns": InputColumns(),
            "scoring": ScoringSettings(model=str(model), threads=1, **scoring),
            "ray": RaySettings(replicas=1),
        }
        | changes
    )


def read_output(directory: Path) -> pa.Table:
    """The whole output of a job in its order."""
    return pq.read_table(sorted(map(str, directory.glob("part-*.parquet")))).combine_chunks()


def assert_same_rows(one: pa.Table, other: pa.Table) -> None:
    """Asserts that two tables are equal, bit for bit and row for row."""
    assert one.schema.equals(other.schema), f"{one.schema} is not {other.schema}"
    assert one.num_rows == other.num_rows
    for name in one.column_names:
        assert one[name].equals(other[name]), name
        if pa.types.is_floating(one[name].type):  # equality of numbers takes 0.0 for -0.0
            assert one[name].to_numpy().tobytes() == other[name].to_numpy().tobytes(), name
