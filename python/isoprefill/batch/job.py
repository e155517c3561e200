"""A batch job from its input to its summary: shuffle, plan, blocks. Whatever ends it, the same job continues it."""

import time
from collections.abc import Callable
from typing import Any

from isoprefill.batch.actor_pool import ActorPool
from isoprefill.batch.block_plan import automatic_block_items, blocks_as_json, plan_blocks
from isoprefill.batch.directory import OWN, SCRATCH, Directory
from isoprefill.batch.input_files import Unit
from isoprefill.batch.job_actor import JobActor
from isoprefill.batch.job_files import (
    ATTEMPTS,
    MANIFEST,
    PLAN,
    SHUFFLE,
    SUMMARY,
    Plan,
    Work,
    block_numbers,
    count_attempts,
    make_directories,
    part_name,
    read_block_counts,
    unit_name,
)
from isoprefill.batch.job_request import JobRequest
from isoprefill.batch.json_values import LIST, NULL, OTHER, joined_kinds
from isoprefill.batch.manifest import Manifest, OtherJobError
from isoprefill.batch.ray_session import ray_session
from isoprefill.batch.scored_tables import OutputShape
from isoprefill.batch.shuffle import ShuffledUnit, read_keys
from isoprefill.batch.summary import Progress, Summary
from isoprefill.batch.work_counts import WorkCounts

OnProgress = Callable[[Progress], None]


def run_job(request: JobRequest, on_progress: OnProgress = lambda _: None) -> Summary:
    """Does a job, or what is left of it, and returns its summary.

    Args:
        request: what to do.
        on_progress: called now and then.

    Raises:
        ValueError: the request cannot be done as it is: a file, a column, a model, a label; says what.
        OtherJobError: (a ValueError) the output directory holds something else.
        RayError: Ray does not start, or its actors end whatever they do.
        MissingLogprobError, NotEnoughMemoryError: see `ScoringEngine.score_batch`.
    """
    manifest, work, units = request.checked()
    if _begin(manifest, work):
        _tidy(work.directory())  # it may have been killed before it did
        return Summary.parse(work.directory().read_text(SUMMARY))
    with ray_session(request.ray) as ray:
        run = _Run(ray, request, work, on_progress)
        began = time.monotonic()
        plan = run.plan(units)
        shuffled = time.monotonic()
        return run.score(plan, shuffled - began)


def _begin(manifest: Manifest, work: Work) -> bool:
    """Makes the output directory, or checks that it is this job's; returns whether the job is finished."""
    directory = work.directory()
    if directory.exists(MANIFEST):
        found = Manifest.parse(directory.read_text(MANIFEST), f"{work.output}/{MANIFEST}")
        manifest.check_same(found, work.output)
        return directory.exists(SUMMARY)
    # A job that was killed before its manifest was there has left directories without files.
    if any(name != OWN for name in directory.names()) or directory.files(SHUFFLE):
        raise OtherJobError(
            f"output {work.output} is not empty, and holds no job: name another directory"
        )
    make_directories(work)
    directory.write_text(MANIFEST, manifest.text())
    return False


def _tidy(directory: Directory) -> None:
    """Removes what a finished job does not need."""
    for name in (SHUFFLE, ATTEMPTS, SCRATCH):
        directory.remove(name)


class _Run:
    """One run of a job on Ray."""

    def __init__(self, ray: Any, request: JobRequest, work: Work, on_progress: OnProgress) -> None:
        self._ray, self._request, self._work = ray, request, work
        self._on_progress = on_progress
        self._directory: Directory = work.directory()
        self._actor = ray.remote(JobActor)

    def plan(self, units: list[Unit]) -> Plan:
        """Shuffles the units that are not yet, and returns the plan, which is written then."""
        if self._directory.exists(PLAN):
            return Plan.parse(self._directory.read_text(PLAN))
        began = time.monotonic()
        left = [
            (number, unit)
            for number, unit in enumerate(units)
            if not self._directory.exists(unit_name(number))
        ]
        done = 0

        def show() -> None:
            self._on_progress(
                Progress(
                    phase="shuffling",
                    done=len(units) - len(left) + done,
                    total=len(units),
                    done_now=done,
                    errors=0,
                    seconds=time.monotonic() - began,
                )
            )

        show()
        cpus = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        pool = ActorPool(
            self._ray,
            lambda: self._make(num_cpus=1),
            cpus,
            left,
            lambda actor, one: actor.shuffle.remote(*one),
        )
        for _ in pool.run(show):
            done += 1
            show()
        plan = self._made_plan(
            [
                ShuffledUnit.parse(self._directory.read_text(unit_name(number)))
                for number in range(len(units))
            ]
        )
        self._directory.write_text(PLAN, plan.text())
        return plan

    def score(self, plan: Plan, seconds_shuffling: float) -> Summary:
        """Scores the blocks that are not yet, and finishes the job."""
        began = time.monotonic()
        finished = block_numbers(self._directory)
        if any(number >= len(plan.blocks) for number in finished):
            raise OtherJobError(f"output {self._work.output} holds more blocks than the job has")
        counts = sum((read_block_counts(self._work, one) for one in finished), WorkCounts())
        known = set(finished)
        left = [number for number in range(len(plan.blocks)) if number not in known]
        before = counts.items

        def show() -> None:
            self._on_progress(
                Progress(
                    phase="scoring",
                    done=counts.items,
                    total=plan.items,
                    done_now=counts.items - before,
                    errors=counts.errors,
                    seconds=time.monotonic() - began,
                )
            )

        show()
        options = self._request.ray.options()
        pool = ActorPool(
            self._ray,
            lambda: self._make(**options),
            self._request.ray.replicas,
            left,
            lambda actor, number: actor.score.remote(number),
        )
        for one in pool.run(show):
            counts += one
            show()
        return self._finish(
            plan, counts, counts.items - before, time.monotonic() - began, seconds_shuffling
        )

    def _make(self, **options: Any) -> Any:
        # Restarts are the pool's.
        return self._actor.options(max_restarts=0, max_task_retries=0, **options).remote(self._work)

    def _made_plan(self, units: list[ShuffledUnit]) -> Plan:
        work = self._work
        indices = [part for unit in units for part in unit.parts]
        parts = [
            part_name(number, part)
            for number, unit in enumerate(units)
            for part in range(len(unit.parts))
        ]
        rows = sum(int(one.rows.sum()) for one in indices)
        items = sum(int(one.items.sum()) for one in indices)
        block_items = self._request.block_items or automatic_block_items(
            items, self._request.ray.replicas
        )
        blocks = plan_blocks(indices, block_items, lambda one: read_keys(work, parts, one))
        kinds: dict[str, str] = {}
        if work.format == "jsonl":
            kinds = joined_kinds(
                [*(unit.kinds for unit in units), dict.fromkeys(work.columns.names, NULL)]
            )
        shape = OutputShape(
            item_lists=work.columns.items is not None, label_lists=self._has_label_lists(kinds)
        )
        return Plan(blocks_as_json(blocks), parts, rows, items, kinds, shape)

    def _has_label_lists(self, kinds: dict[str, str]) -> bool:
        label = self._work.columns.label
        if label is None:
            return False
        if self._work.format == "jsonl":
            return kinds[label].startswith(LIST) or kinds[label] == OTHER
        import pyarrow as pa

        kind = self._work.arrow_schema().field(label).type
        return not (
            pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
        )

    def _finish(
        self,
        plan: Plan,
        counts: WorkCounts,
        items_now: int,
        seconds_now: float,
        seconds_shuffling: float,
    ) -> Summary:
        again = {
            block: times - 1 for block, times in count_attempts(self._work).items() if times > 1
        }
        summary = Summary(
            counts=counts,
            blocks=len(plan.blocks),
            items_begun_again=sum(
                times * read_block_counts(self._work, block).items for block, times in again.items()
            ),
            items_now=items_now,
            seconds_now=round(seconds_now, 3),
            seconds_shuffling=round(seconds_shuffling, 3),
            replicas=self._request.ray.replicas,
        )
        self._directory.write_text(SUMMARY, summary.text())
        _tidy(self._directory)
        return summary
