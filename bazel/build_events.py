"""Reads the results and the outputs of tests from what `bazel test --build_event_json_file=FILE` wrote.

`python3 build_events.py FILE` prints how many test cases passed, failed and were skipped.
"""

import dataclasses
import json
import pathlib
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class TestResult:
    """One run of one test target (one shard of it, if it is sharded)."""

    label: str
    passed: bool
    outputs: dict[str, pathlib.Path]  # by name: test.xml, test.outputs__outputs.zip, …


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
        yield TestResult(event["id"]["testResult"]["label"], result["status"] == "PASSED", outputs)


def count_cases(result: TestResult) -> Counter[str]:
    """Returns how many test cases of one result passed, failed and were skipped."""
    counts: Counter[str] = Counter()
    xml = result.outputs.get("test.xml")
    if xml is not None and xml.exists():
        for case in ElementTree.parse(xml).iter("testcase"):
            kinds = {child.tag for child in case}
            if kinds & {"failure", "error"}:
                counts["failed"] += 1
            else:
                counts["skipped" if "skipped" in kinds else "passed"] += 1
    if not result.passed and not counts["failed"]:
        counts["failed"] = 1  # it crashed or ran out of time
    return counts


if __name__ == "__main__":
    total: Counter[str] = Counter()
    for test_result in read_results(pathlib.Path(sys.argv[1])):
        total += count_cases(test_result)
    print(total["passed"], total["failed"], total["skipped"])
