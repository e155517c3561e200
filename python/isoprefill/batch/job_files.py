"""The files of a job in its output directory, and what they hold.

part-000000.parquet …          a block each: the output
_isoprefill/manifest.json      what the job is
_isoprefill/plan.json          the blocks, once the input is shuffled
_isoprefill/shuffle/           the input in the order of the output: parts, and for each unit a list of them
_isoprefill/attempts/          an empty file each time that a block is begun
_isoprefill/scratch/           files that are being written
_isoprefill/summary.json       written last: the job is finished
"""

import collections
import dataclasses
import json
import re
import uuid
from typing import Any

from isoprefill.batch.columns import InputColumns
from isoprefill.batch.directory import OWN, SCRATCH, Directory
from isoprefill.batch.input_files import Format
from isoprefill.batch.scored_tables import OutputShape
from isoprefill.batch.scoring_settings import ScoringSettings
from isoprefill.batch.work_counts import WorkCounts

MANIFEST, PLAN, SUMMARY = (f"{OWN}/{name}.json" for name in ("manifest", "plan", "summary"))
SHUFFLE, ATTEMPTS = f"{OWN}/shuffle", f"{OWN}/attempts"
_BLOCK = re.compile(r"part-(\d{6,})\.parquet")
BLOCK_KEY = b"isoprefill.block"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that an actor must know of a job.

    Attributes:
        output: the directory.
        digest: of the manifest.
        format: of the input.
        columns: of the input.
        scoring: the model.
        schema: of Parquet input, as pyarrow's bytes.
    """

    output: str
    digest: str
    format: Format
    columns: InputColumns
    scoring: ScoringSettings
    schema: bytes | None = None

    def directory(self) -> Directory:
        """Returns the output directory."""
        return Directory(self.output)

    def arrow_schema(self) -> Any:
        """Returns the schema of Parquet input."""
        import pyarrow as pa

        return pa.ipc.read_schema(pa.py_buffer(self.schema))


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The blocks of a job, and what the shuffle found in the input.

    Attributes:
        blocks: JSON of `block_plan`.
        parts: names of the files that intervals of blocks are of.
        rows, items: how many there are.
        kinds: of the columns of JSON Lines.
        shape: of the output.
    """

    blocks: list[Any]
    parts: list[str]
    rows: int
    items: int
    kinds: dict[str, str]
    shape: OutputShape

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Plan":
        value = json.loads(text)
        return cls(**(value | {"shape": OutputShape(**value["shape"])}))


def make_directories(work: Work) -> None:
    """Makes the directories of a job."""
    work.directory().make(SHUFFLE, ATTEMPTS, SCRATCH)


def block_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def block_numbers(directory: Directory) -> list[int]:
    """Returns the numbers of the blocks that are there."""
    matches = map(_BLOCK.fullmatch, directory.names())
    return [int(match[1]) for match in matches if match]


def read_block_counts(work: Work, number: int) -> WorkCounts:
    """Returns what a finished block took, from its footer.

    Raises:
        ValueError: it is no block of this job; names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory, name = work.directory(), block_name(number)
    try:
        with directory.open(name) as file:
            kept = pq.read_metadata(file).metadata
        value = json.loads(kept[BLOCK_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"output {work.output}/{name} is not a block of this job: {error}"
        ) from None
    if (value.pop("job"), value.pop("block")) != (work.digest, number):
        raise ValueError(f"output {work.output}/{name} is a block of another job")
    return WorkCounts(**value)


def note_attempt(work: Work, number: int) -> None:
    """Notes that a block is begun."""
    directory = work.directory()
    name = f"{ATTEMPTS}/{number:06d}-{uuid.uuid4().hex}"
    with directory.fs.open_output_stream(f"{directory.root}/{name}"):
        pass


def count_attempts(work: Work) -> collections.Counter[int]:
    """Returns how often each block was begun."""
    names = work.directory().names(ATTEMPTS)
    return collections.Counter(int(name.partition("-")[0]) for name in names)


def unit_name(number: int) -> str:
    return f"{SHUFFLE}/unit-{number:06d}.json"


def part_name(unit: int, part: int) -> str:
    return f"{SHUFFLE}/unit-{unit:06d}-{part:04d}.arrow"
