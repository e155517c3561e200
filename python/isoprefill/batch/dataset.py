"""`score_dataset`: the same scores in a pipeline of Ray Data, whose own progress and durability it has."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from isoprefill.batch.block_scoring import make_scorer
from isoprefill.batch.cells import Cells
from isoprefill.batch.columns import InputColumns
from isoprefill.batch.ray_session import RaySettings
from isoprefill.batch.row_scoring import RowScorer
from isoprefill.batch.scored_tables import OutputShape, scored_table
from isoprefill.batch.scoring_settings import ScoringSettings

if TYPE_CHECKING:
    from ray.data import Dataset

QUERY_KEY, ITEM_KEY = "isoprefill:query", "isoprefill:item"


def score_dataset(
    ds: "Dataset",
    *,
    scoring: ScoringSettings | None = None,
    columns: InputColumns | None = None,
    replicas: int = 1,
    resources: dict[str, float] | None = None,
    batch_items: int = 16_384,
) -> "Dataset":
    """Returns a dataset with the columns of `ds` and those of the scores; docs/batch.md has the schema.

    The rows are sorted by a hash of their query, so that those of one query meet, and scored by a pool of actors. Ray
    Data spills what does not fit into its object store. Unlike `isoprefill batch` this is not durable: what a driver
    that ends has done is lost.

    Args:
        ds: rows; blocks of Arrow or pandas.
        scoring: the model, and what is read of it; None: likelihoods of the default model.
        columns: which are scored.
        replicas: actors, each with an engine.
        resources: of each, such as {"CPU": 8, "TPU": 4}; None is one CPU.
        batch_items: rows that are scored at once.

    Raises:
        ValueError: an argument is wrong; names it. A model or label that cannot be used is found when the dataset is
            executed.
    """
    import ray.data

    scoring, columns = scoring or ScoringSettings(), columns or InputColumns()
    if batch_items < 1:
        raise ValueError(f"batch_items must be at least 1, got {batch_items}")
    settings = RaySettings(replicas=replicas, resources=resources or {"CPU": 1.0})
    keyed = ds.map_batches(
        _with_keys,
        fn_kwargs={"columns": columns, "deduplicate": scoring.deduplicate},
        batch_format="pyarrow",
    )
    return keyed.sort([QUERY_KEY, ITEM_KEY]).map_batches(
        _TableScorer,
        fn_constructor_kwargs={"scoring": scoring, "columns": columns},
        batch_format="pyarrow",
        batch_size=batch_items,
        compute=ray.data.ActorPoolStrategy(size=replicas),
        **settings.options(),
    )


def _with_keys(table: Any, columns: InputColumns, deduplicate: bool) -> Any:
    cells = Cells.of_table(table, columns)
    keys = cells.query_keys(), cells.item_keys(deduplicate, columns.items is not None)
    for name, key in zip((QUERY_KEY, ITEM_KEY), keys, strict=True):
        table = table.append_column(name, [key.view(np.int64)])
    return table


@dataclasses.dataclass
class _TableScorer:
    scoring: ScoringSettings
    columns: InputColumns
    scorer: RowScorer | None = None

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        if self.scorer is None:
            self.scorer = make_scorer(self.scoring, label_column=self.columns.label is not None)
        table = table.drop_columns([QUERY_KEY, ITEM_KEY])
        label = self.columns.label
        shape = OutputShape(
            item_lists=self.columns.items is not None,
            label_lists=label is not None and pa.types.is_nested(table[label].type),
        )
        return scored_table(self.scorer, table, Cells.of_table(table, self.columns), shape)[0]
