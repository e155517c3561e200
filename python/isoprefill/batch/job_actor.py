"""What runs in Ray's actors: the work of a job, a unit or a block at a time."""

from isoprefill.batch.block_scoring import BlockScorer
from isoprefill.batch.input_files import Unit
from isoprefill.batch.job_files import Work
from isoprefill.batch.shuffle import shuffle_unit
from isoprefill.batch.work_counts import WorkCounts


class JobActor:
    """Shuffles units or scores blocks of one job."""

    def __init__(self, work: Work) -> None:
        """Takes the job; the model is loaded when the first block comes, so that the driver hears if it cannot be."""
        self._work = work
        self._scorer: BlockScorer | None = None

    def ready(self) -> None:
        """Answers when the actor lives."""

    def shuffle(self, number: int, unit: Unit) -> None:
        """Shuffles a unit; see `shuffle.shuffle_unit`."""
        shuffle_unit(self._work, number, unit)

    def score(self, number: int) -> WorkCounts:
        """Scores a block; see `BlockScorer.score`."""
        if self._scorer is None:
            self._scorer = BlockScorer(self._work)
        return self._scorer.score(number)
