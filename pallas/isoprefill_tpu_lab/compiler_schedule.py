"""Reads the static schedule that the TPU's compiler makes of a kernel.

Compiled with `dump_flags(directory)` in LIBTPU_INIT_ARGS, libtpu leaves two files per kernel: the final VLIW
bundles, with the branches between them, and how much of each unit every bundle uses. A bundle takes about a
cycle, so the cycles of a kernel are the bundles of each region times how often the region runs. Waiting for
memory and branch delays are not in it: an estimate, and never a measured time.

A region is what a conditional branch jumps over ("if") or back to ("loop"):

    0x9c   : { %12 = sbr.rel (%p3) target = $region20 }     # skips [0x9d, start of region 20)
"""

import dataclasses
import pathlib
import re
from typing import Literal

_BUNDLE = re.compile(r"\s*(0x[0-9a-f]+|0)\s+(LB|LH|LE|PF|PB|CT)?\s*:")
_START = re.compile(r"Start(?:/End empty)? region (\d+)")
_BRANCH = re.compile(r"sbr\.rel (?:\(!?%\w+\) )?target = \$region(\d+)")


def dump_flags(directory: str) -> str:
    """Returns flags for LIBTPU_INIT_ARGS, to be set before jax is imported."""
    return (
        f"--xla_jf_dump_to={directory} --xla_jf_dump_llo_text=true "
        # Of seventy stages, the last: the others take most of the compilation's time.
        "--xla_jf_dump_llo_pass_label_regex=^(final|deduplication)"
    )


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Region:
    """Bundles [begin, end) of a kernel that run together."""

    begin: int
    end: int
    kind: Literal["if", "loop"]

    @property
    def bundles(self) -> int:
        return self.end - self.begin

    def holds(self, other: "Region") -> bool:
        """Tells whether the other region lies inside this one and is not the same."""
        inside = self.begin <= other.begin and other.end <= self.end
        return inside and (self.begin, self.end) != (other.begin, other.end)


class CompiledKernel:
    """The bundles of one kernel: how many, their regions, and what uses which unit."""

    def __init__(self, directory: str, name: str) -> None:
        """Reads the newest dump of the kernel called `name`.

        Raises:
            FileNotFoundError: if there is none, as when the kernel did not compile.
        """
        found = pathlib.Path(directory)
        bundle_files = [
            path
            for path in found.glob(f"*{name}*final_bundles.txt")
            if "schedule-analysis" not in path.name
        ]
        unit_files = list(found.glob(f"*{name}*final_hlo-static-per-bundle-utilization.txt"))
        if not bundle_files or not unit_files:
            raise FileNotFoundError(f"no dump of kernel {name!r} in {directory}")
        lines = max(unit_files).read_text().splitlines()
        self._units = [unit.strip() for unit in lines[1].split(",")]
        self._slots = [int(slots) for slots in lines[2].split()]
        self._uses = [[int(use) for use in line.split()] for line in lines[4:] if line.strip()]
        self.bundles = len(self._uses)
        self.regions = _regions(
            max(bundle_files).read_text().splitlines(keepends=True), self.bundles
        )

    def uses(self, region: Region, unit: str) -> int:
        """Counts the slots of a unit (MATMUL, XLU, VSTORE, …) that the bundles of a region use."""
        if unit not in self._units:
            return 0
        column = self._units.index(unit)
        return sum(row[column] for row in self._uses[region.begin : region.end])

    def utilisation(self, region: Region) -> dict[str, float]:
        """Returns the share of each unit's slots that a region uses, for the units that it uses at all."""
        shares = {}
        for unit, slots in zip(self._units, self._slots, strict=True):
            used = self.uses(region, unit)
            if used and region.bundles:
                shares[unit] = used / (slots * region.bundles)
        return shares


def _regions(lines: list[str], count: int) -> list[Region]:
    bundles: list[str] = []
    for line in lines:
        if _BUNDLE.match(line):
            bundles.append(line)
        elif bundles:
            bundles[-1] += line
    if len(bundles) != count:
        raise ValueError(
            f"{len(bundles)} bundles in the schedule but {count} in the table of units"
        )
    starts: dict[str, int] = {}
    for index, text in enumerate(bundles):
        for region in _START.findall(text):
            starts.setdefault(region, index)
    regions = set()
    for index, text in enumerate(bundles):
        for target in _BRANCH.findall(text):
            if target not in starts:
                continue
            at = starts[target]
            regions.add(
                Region(index + 1, at, "if") if at > index else Region(at, index + 1, "loop")
            )
    return sorted(region for region in regions if region.bundles > 0)
