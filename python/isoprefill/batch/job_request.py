"""What a batch job is asked to do, and its checks, which need neither Ray nor the model's weights."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from isoprefill.batch.columns import InputColumns, output_names, score_names
from isoprefill.batch.input_files import (
    Unit,
    check_json_lines,
    check_parquet,
    find_files,
    units_of,
)
from isoprefill.batch.job_files import Work
from isoprefill.batch.manifest import Manifest
from isoprefill.batch.ray_session import RaySettings
from isoprefill.batch.scoring_settings import ScoringSettings
from isoprefill.host.threads import usable_threads
from isoprefill.models.sources.source import find_adapter, find_model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job.

    Attributes:
        inputs: paths or URIs of files and directories.
        output: of a directory.
        columns: of the input.
        scoring: the model, and what is read of it.
        ray: where the work is done. Like `block_items` it does not change the output.
        block_items: items of a block, the unit of progress and a file of the output, at most. None: a hundredth of all
            items for all replicas together, and no more than 65,536.
    """

    inputs: tuple[str, ...]
    output: str
    columns: InputColumns
    scoring: ScoringSettings
    ray: RaySettings
    block_items: int | None = None

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("give at least one input")
        if not self.output:
            raise ValueError("output is empty")
        if self.block_items is not None and self.block_items < 1:
            raise ValueError(f"block-items must be at least 1, got {self.block_items}")
        if self.columns.label is not None and self.scoring.labels:
            raise ValueError("give either labels or label-column, not both")

    def checked(self) -> tuple[Manifest, Work, list[Unit]]:
        """Returns the job's manifest, what its actors must know, and the units of its input.

        Raises:
            ValueError: a file, a column or the model cannot be used; says which.
        """
        inputs = tuple(map(_absolute, self.inputs))
        files, form = find_files(inputs)
        schema = None
        if form == "parquet":
            schema = check_parquet(files, self.columns)
            output_names(schema.names, score_names(self.scoring.labels))
        else:
            check_json_lines(files, self.columns)
        scoring = self._scoring()
        manifest = Manifest(inputs=files, settings=self._settings(scoring, form))
        work = Work(
            output=_absolute(self.output),
            digest=manifest.digest,
            format=form,
            columns=self.columns,
            scoring=scoring,
            schema=None if schema is None else schema.serialize().to_pybytes(),
        )
        return manifest, work, units_of(files, form)

    def _scoring(self) -> ScoringSettings:
        """Returns the settings with paths that hold in every process, and threads that do not fight for the machine."""
        scoring = self.scoring
        found = find_model(scoring.model)
        changes: dict[str, Any] = {}
        if Path(scoring.model).expanduser().exists():
            changes["model"] = str(found.path.resolve())
        if scoring.adapter is not None and Path(scoring.adapter).expanduser().exists():
            changes["adapter"] = str(find_adapter(scoring.adapter).resolve())
        if scoring.threads is None and self.ray.address is None:
            changes["threads"] = max(1, usable_threads() // self.ray.replicas)
        return dataclasses.replace(scoring, **changes)

    def _settings(self, scoring: ScoringSettings, form: str) -> dict[str, Any]:
        return scoring.lasting() | {
            "columns": dataclasses.asdict(self.columns),
            "format": form,
            "model bytes": _bytes_of(find_model(scoring.model).path),
        }


def _absolute(path: str) -> str:
    """Returns a path that means the same in every process."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _bytes_of(path: Path) -> int:
    """Returns the size of a model's files, by which another model at the same path is noticed."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return sum(one.stat().st_size for one in files if one.is_file())
