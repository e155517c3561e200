"""Turns a report into the JSON of report.schema.json, which extends what test_pytorch_isolation.py writes."""

import dataclasses
from typing import Any

from isoprefill import __version__
from isoprefill.audit.finding import Finding
from isoprefill.audit.run import AuditReport

SCHEMA_VERSION = 2


def to_json(report: AuditReport) -> dict[str, Any]:
    """Returns the report as JSON values."""
    findings, conclusion = report.findings, report.conclusion
    answers = [finding.has_isolation for finding in findings if finding.has_isolation is not None]
    return {
        "schema_version": SCHEMA_VERSION,
        "auditor": {"name": "isoprefill audit", "version": __version__},
        "server_url": report.server_url,
        "model": report.model,
        "scale": report.scale,
        "started": report.started,
        "seconds": round(report.seconds, 3),
        "num_requests": report.num_requests,
        "settings": dataclasses.asdict(report.settings),
        "noise": dataclasses.asdict(report.calibration),
        "tests": [_test(finding) for finding in findings],
        "leaks": [dataclasses.asdict(leak) for leak in conclusion.leaks],
        "comparison": None if report.comparison is None else dataclasses.asdict(report.comparison),
        "summary": {
            "all_tests_show_isolation": bool(answers) and all(answers),
            "any_test_shows_isolation": any(answers),
            "conclusion": conclusion.verdict,
            "explanation": conclusion.explanation,
            "exit_code": report.exit_code,
        },
    }


def _test(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "question": finding.question,
        # As in the script: whether the test could be carried out.
        "passed": finding.verdict not in ("rejected", "failed"),
        "has_isolation": finding.has_isolation,
        "verdict": finding.verdict,
        "effect": finding.effect,
        "threshold": finding.threshold,
        "reason": finding.reason,
        "details": {**finding.details, "threshold": finding.threshold},
    }
