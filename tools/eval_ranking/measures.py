"""How good rankings are: measures of `ir-measures`, averaged over lists, with what another draw of lists may change."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence

import ir_measures
import numpy as np
from ir_measures import RR, Success, nDCG

MEASURES = {"nDCG@10": nDCG @ 10, "MRR": RR, "top-1": Success @ 1}
RESAMPLES = 2_000


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What came of several lists.

    Attributes:
        lists: how many.
        means: of each of `MEASURES`.
        intervals: of each mean, 95%, by drawing lists anew (bootstrap).
    """

    lists: int
    means: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def of_each(
    rankings: Sequence[tuple[Sequence[float], Sequence[bool]]],
) -> dict[str, np.ndarray]:
    """Returns each measure of each list, which is scores and whether each candidate is right."""
    run, right = defaultdict(dict), defaultdict(dict)
    for number, (scores, answers) in enumerate(rankings):
        for place, (score, answer) in enumerate(zip(scores, answers, strict=True)):
            run[str(number)][str(place)] = float(score)
            right[str(number)][str(place)] = int(answer)
    found = {name: np.zeros(len(rankings)) for name in MEASURES}
    names = {measure: name for name, measure in MEASURES.items()}
    for one in ir_measures.iter_calc(list(MEASURES.values()), right, run):
        found[names[one.measure]][int(one.query_id)] = one.value
    return found


def measured(values: Iterable[dict[str, np.ndarray]]) -> Measured:
    """Returns the mean over tasks, each of which has measures of its lists; each task counts the same."""
    tasks = list(values)
    generator = np.random.default_rng(0)
    means, intervals = {}, {}
    for name in MEASURES:
        of_tasks = [one[name] for one in tasks]
        means[name] = float(np.mean([one.mean() for one in of_tasks]))
        drawn = np.mean(
            [
                one[generator.integers(0, one.size, (RESAMPLES, one.size))].mean(axis=1)
                for one in of_tasks
            ],
            axis=0,
        )
        low, high = np.quantile(drawn, [0.025, 0.975])
        intervals[name] = float(low), float(high)
    return Measured(sum(one["MRR"].size for one in tasks), means, intervals)
