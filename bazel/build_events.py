"""Reads the results and the outputs of tests from what `bazel test --build_event_json_file=FILE` wrote.

`python3 build_events.py FILE` prints how many test cases passed, failed and were skipped. On standard error it prints
the end of each failed target's log, and then all their names: whoever has only the last lines of CI needs no more.
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
    if xml is None:
        return
    try:
        report = ElementTree.parse(xml)
    except (OSError, ElementTree.ParseError):  # of a process that was killed
        return
    for case in report.iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "skipped" if "skipped" in kinds else "passed"
        if kinds & {"failure", "error"}:
            outcome = "failed"
        yield f"{case.get('classname')}::{case.get('name')}", outcome


def count_cases(result: TestResult) -> Counter[str]:
    """Returns how many test cases of one result passed, failed and were skipped."""
    counts = Counter(outcome for _, outcome in cases(result))
    if not result.passed and not counts["failed"]:
        counts["failed"] = 1  # it crashed or ran out of time
    return counts


def end_of_log(result: TestResult) -> list[str]:
    """Returns the last lines that a target printed."""
    log = result.outputs.get("test.log")
    if log is None or not log.exists():
        return []
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:]


if __name__ == "__main__":
    results = list(read_results(pathlib.Path(sys.argv[1])))
    failures = [result for result in results if not result.passed]
    for failure in failures:
        print(f"== the end of {failure.label}:", *end_of_log(failure), sep="\n", file=sys.stderr)
    for failure in failures:
        print(f"{failure.status}: {failure.label}", file=sys.stderr)
        for name in [name for name, outcome in cases(failure) if outcome == "failed"]:
            print(f"  {name}", file=sys.stderr)
    total = sum(map(count_cases, results), Counter())
    print(total["passed"], total["failed"], total["skipped"])
