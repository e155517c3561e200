"""The bundles of every instruction of a compiled program, from the schedules that libtpu leaves.

An instruction (a fusion, a copy, a kernel) has a file of its final bundles, or shares that of an equal one. Bundles
inside a loop are marked with a ">" for each loop around them; the bundle with the loop's exit test has its limit. A
loop that copies windows in and out runs a few more times than there are windows, to start and to finish; then the
windows count, which the instruction itself says.
"""

import dataclasses
import pathlib
import re

_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(LB|LH|LE|PF|PB|CT)?\s*:\s*((?:>\s*)*)")
_EXIT = re.compile(r"scmp\.\w+\.[su]32(?:\.\w+)? %\w+, (\d+)\s*/\* loop exit test")
_FILE = re.compile(r"\d+-(.+)-\d+-final_bundles\.txt$")
# How often a pipelined loop runs beyond its windows.
MOST_STAGES = 8


@dataclasses.dataclass(frozen=True, slots=True)
class InstructionBundles:
    """Bundles of one instruction: outside loops, and those of each loop with the limit of its exit test.

    Attributes:
        loops: (bundles, times), times None where the limit is not a constant.
    """

    outside: int
    loops: tuple[tuple[int, int | None], ...]

    @classmethod
    def parse(cls, text: str) -> "InstructionBundles":
        """Reads final bundles; a loop inside another is not told from it."""
        loops: list[tuple[int, int | None]] = []
        outside, run = 0, 0
        limit: int | None = None
        for line in text.splitlines():
            bundle = _BUNDLE.match(line)
            if bundle:
                in_loop = ">" in bundle[2]
                if run and limit is not None and not in_loop:  # behind the exit test
                    loops.append((run, limit))
                    run, limit = 0, None
                # Some bundles of a loop have no mark: what lies before its exit test belongs to it.
                if run or (in_loop and bundle[1] == "LB"):
                    run += 1
                else:
                    outside += 1
            test = _EXIT.search(line)
            limit = int(test[1]) if run and test else limit
        if run:
            loops.append((run, limit))
        return cls(outside, tuple(loops))

    def executed(self, windows: int | None) -> int | None:
        """Returns the bundles that run, or None if it is not known how often a loop does.

        Args:
            windows: that the instruction computes one after another, if it says so.
        """
        total = self.outside
        for bundles, limit in self.loops:
            times = limit
            if windows is not None and (limit is None or windows <= limit <= windows + MOST_STAGES):
                times = windows
            if times is None:
                return None
            total += bundles * times
        return total


def read_bundles(directory: str) -> dict[str, InstructionBundles]:
    """Returns the bundles of every instruction of the last program whose dump lies in the directory, by name."""
    found = {}
    for path in sorted(pathlib.Path(directory).glob("*final_bundles.txt")):
        name = _FILE.match(path.name)
        if name and not name[1].endswith("schedule-analysis"):
            found[name[1]] = InstructionBundles.parse(path.read_text())
    for path in pathlib.Path(directory).glob("*deduplication-map.txt"):
        for entry in path.read_text().split("key:")[1:]:
            names = [
                entry.split("\n", 1)[0].strip(),
                *re.findall(r"^  (\S+)$", entry, re.MULTILINE),
            ]
            known = next((found[name] for name in names if name in found), None)
            if known is not None:
                found.update(dict.fromkeys(names, known))
    return found
