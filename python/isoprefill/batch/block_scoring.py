"""Scores a block and writes it: what an actor does over and over."""

import json
import time
from typing import Any

from isoprefill.batch.block_plan import block_from_json
from isoprefill.batch.cells import Cells, arrow_type
from isoprefill.batch.job_files import (
    BLOCK_KEY,
    PLAN,
    Plan,
    Work,
    block_name,
    note_attempt,
    read_block_counts,
)
from isoprefill.batch.json_values import as_kind
from isoprefill.batch.row_scoring import RowScorer
from isoprefill.batch.scored_tables import scored_table
from isoprefill.batch.scoring_settings import ScoringSettings
from isoprefill.batch.shuffle import read_block, records_of
from isoprefill.batch.work_counts import WorkCounts

ROW_GROUP = 65_536


class BlockScorer:
    """Scores blocks of one job with one engine."""

    def __init__(self, work: Work) -> None:
        """Loads the plan and the model.

        Raises:
            ValueError: the model, a label or a column's name cannot be used; says why.
        """
        import pyarrow.parquet  # noqa: F401 - takes a while: not in the time of the first block

        self._work = work
        self._plan = Plan.parse(work.directory().read_text(PLAN))
        self._scorer = make_scorer(work.scoring, label_column=work.columns.label is not None)

    def score(self, number: int) -> WorkCounts:
        """Scores a block and writes it, unless it is there; returns what it took.

        Raises:
            MissingLogprobError, NotEnoughMemoryError: see `ScoringEngine.score_batch`.
        """
        directory = self._work.directory()
        if directory.exists(block_name(number)):
            return read_block_counts(self._work, number)
        begun, cpu_begun = time.monotonic(), time.process_time()
        note_attempt(self._work, number)
        block = block_from_json(self._plan.blocks[number])
        table, cells = self._rows(read_block(self._work, self._plan.parts, block))
        table, counts = scored_table(self._scorer, table, cells, self._plan.shape)
        counts.seconds = time.monotonic() - begun
        counts.cpu_seconds = time.process_time() - cpu_begun
        self._write(number, table, counts)
        return counts

    def _rows(self, table: Any) -> tuple[Any, Cells]:
        if self._work.format == "parquet":
            return table, Cells.of_table(table, self._work.columns)
        import pyarrow as pa

        records = records_of(table)
        columns = {
            name: pa.array(
                [as_kind(values.get(name), kind) for values, _ in records], arrow_type(kind)
            )
            for name, kind in self._plan.kinds.items()
        }
        return pa.table(columns), Cells.of_records(records, self._work.columns)

    def _write(self, number: int, table: Any, counts: WorkCounts) -> None:
        import pyarrow.parquet as pq

        about = {"job": self._work.digest, "block": number} | counts.as_json()
        with self._work.directory().writing(block_name(number)) as file:
            writer = pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
            writer.add_key_value_metadata({BLOCK_KEY: json.dumps(about)})
            writer.close()


def make_scorer(settings: ScoringSettings, *, label_column: bool) -> RowScorer:
    """Loads the model of these settings."""
    return RowScorer(settings.load(), settings, label_column=label_column)
