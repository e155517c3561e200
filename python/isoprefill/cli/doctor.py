"""Checks this machine: versions, folders, numbers and isolation of every back end, known scores, and speed.

    isoprefill doctor
    isoprefill doctor --report report.json

Takes about a minute. The report holds the same as the table, and on a TPU the time of each kernel beside its estimate.
It can be sent: of yours it has only what the machine is and where its cache folders are.

Exit status: 0 nothing is wrong, 7 something is: the table says what, and what to do; 1 it could not be finished, 2
wrong use, 130 interrupted.
"""

import dataclasses
import json
import sys
from pathlib import Path

from isoprefill.cli.command_flags import CommandFlags
from isoprefill.cli.failures import require_output
from isoprefill.doctor.finding import Finding
from isoprefill.doctor.run import Dtype, run_checks
from isoprefill.doctor.scoring import DEFAULT_MODEL

FOUND_FAULTS = 7

FLAGS = CommandFlags()
_MODEL = FLAGS.text(
    "model", DEFAULT_MODEL, "The model to score with; known scores exist for the default one only."
)
_DTYPE = FLAGS.choice("dtype", "float32", ["float32", "bfloat16"], "Type of the weights.")
_JSON = FLAGS.switch("json", "Print the report as JSON.")
_REPORT = FLAGS.text("report", None, "Also write the report to this file, as JSON.", "FILE")


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status. Raises an error on bad input."""
    if arguments:
        raise ValueError(f"unexpected argument {arguments[0]!r}")
    require_output()
    report = None if _REPORT.value is None else Path(_REPORT.value)
    if report is not None:
        report.touch()  # what cannot be written shows now, and not after a minute
    findings: list[Finding] = []
    for finding in run_checks(_MODEL.value, _dtype()):
        findings.append(finding)
        if not _JSON.value:
            _print(finding)
    failed = [finding.name for finding in findings if finding.status == "failed"]
    rows = [dataclasses.asdict(finding) for finding in findings]
    text = json.dumps({"healthy": not failed, "checks": rows}, indent=2)
    if report is not None:
        report.write_text(text + "\n")
    if _JSON.value:
        print(text)
    elif failed:
        print(f"\nWrong here: {', '.join(failed)}.")
    else:
        print("\nNothing is wrong here.")
    return FOUND_FAULTS if failed else 0


def _dtype() -> Dtype:
    return "bfloat16" if _DTYPE.value == "bfloat16" else "float32"


def _print(finding: Finding) -> None:
    """Prints a row when it is found: the checks take a minute together."""
    mark = finding.status.upper() if finding.status == "failed" else finding.status
    print(f"{mark:8} {finding.name:20} {finding.detail}")
    if finding.advice:
        print(f"{'':8} {'':20} -> {finding.advice}")
    sys.stdout.flush()
