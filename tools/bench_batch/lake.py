"""The rows that the benchmark scores."""

import pathlib

import numpy as np

_WORDS = [
    "time",
    "way",
    "year",
    "work",
    "life",
    "day",
    "part",
    "case",
    "point",
    "house",
    "fact",
    "eye",
    "place",
    "week",
    "door",
    "water",
    "night",
    "room",
    "side",
    "mother",
    "head",
    "fire",
]
FILE_ROWS = 250_000


def write_lake(directory: pathlib.Path, rows: int, queries: int, item_words: int) -> pathlib.Path:
    """Writes rows of random queries, of eight words, and items to files of Parquet; returns their directory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(parents=True)
    generator = np.random.default_rng(0)
    words = np.asarray(_WORDS, object)

    def texts(number: int, length: int) -> list[str]:
        chosen = words[generator.integers(0, len(_WORDS), (number, length))]
        return [" ".join(row) for row in chosen]

    asked = np.asarray(
        [f"{text} {number}:" for number, text in enumerate(texts(queries, 8))], object
    )
    for place, begin in enumerate(range(0, rows, FILE_ROWS)):
        number = min(FILE_ROWS, rows - begin)
        table = pa.table(
            {
                "id": np.arange(begin, begin + number),
                "query": pa.array(asked[generator.integers(0, queries, number)]),
                "item": [f" {text}" for text in texts(number, item_words)],
            }
        )
        pq.write_table(table, directory / f"{place:03d}.parquet", row_group_size=65_536)
    return directory
