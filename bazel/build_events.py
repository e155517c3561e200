"""Reads the results and the outputs of tests from what `bazel test --build_event_json_file=FILE` wrote.

`python3 build_events.py FILE` prints how many test cases passed, failed and were skipped, and on standard error for each
target that failed which of its cases did and the end of its log: whoever has only the last lines of CI needs no more.
"""

import dataclasses
import json
import pathlib
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator

LOG_LINES = 40  # of a test that failed


@dataclasses.dataclass(frozen=True)
class TestResult:
    """One run of one test target (one shard of it, if it is sharded)."""

    label: str
    status: str  # PASSED, FAILED, TIMEOUT, …
    outputs: dict[str, pathlib.Path]  # by name: test.xml, test.log, test.outputs__outputs.zip, …

    @property
    def passed(self) -> bool:
        return self.status == "PASSED"


def read_results(events: pathlib.Path) -> Iterator[TestResult]:
    """Yields the test results of a build event file."""
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if "testResult" not in event:
            continue
        result = event["testResult"]
        outputs = {
            output["name"]: pathlib.Path(
                urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
            )
            for output in result.get("testActionOutput", [])
        }
        yield TestResult(event["id"]["testResult"]["label"], result["status"], outputs)


def cases(result: TestResult) -> Iterator[tuple[str, str]]:
    """Yields the name of each test case of one result, and `passed`, `failed` or `skipped`."""
    xml = result.outputs.get("test.xml")
    if xml is None or not xml.exists():
        return
    for case in ElementTree.parse(xml).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome = "failed"
        else:
            outcome = "skipped" if "skipped" in kinds else "passed"
        yield f"{case.get('classname')}::{case.get('name')}", outcome


def count_cases(result: TestResult) -> Counter[str]:
    """Returns how many test cases of one result passed, failed and were skipped."""
    counts = Counter(outcome for _, outcome in cases(result))
    if not result.passed and not counts["failed"]:
        counts["failed"] = 1  # it crashed or ran out of time
    return counts


def describe_failure(result: TestResult) -> str:
    """Returns what is known of a result that did not pass."""
    lines = [f"{result.status}: {result.label}"]
    lines += [f"  {name}" for name, outcome in cases(result) if outcome == "failed"]
    log = result.outputs.get("test.log")
    if log is not None and log.exists():
        lines += log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join(lines)


if __name__ == "__main__":
    results = list(read_results(pathlib.Path(sys.argv[1])))
    for failed in (result for result in results if not result.passed):
        print(describe_failure(failed), file=sys.stderr)
    total = sum(map(count_cases, results), Counter())
    print(total["passed"], total["failed"], total["skipped"])
