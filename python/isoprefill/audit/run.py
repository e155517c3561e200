"""Runs an audit."""

import dataclasses
import datetime
import time
from collections.abc import Callable

from isoprefill.audit.client import Rejected, ScoreClient, ServerError
from isoprefill.audit.comparison import Comparison, compare
from isoprefill.audit.conclusion import EXIT_DIFFERENT, Conclusion, conclude
from isoprefill.audit.finding import Finding, judge
from isoprefill.audit.instrument import Calibration, Instrument
from isoprefill.audit.probes import PROBES, Probe
from isoprefill.audit.settings import AuditSettings

# Called with (probes done, probes in all, the next one's name).
ProgressCallback = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of an audit."""

    server_url: str
    model: str  # the name in the server's answers
    scale: str  # of the scores it sends: "probability" or "log"
    started: str  # UTC, ISO 8601
    seconds: float
    num_requests: int  # to this server, not the one compared with
    settings: AuditSettings
    calibration: Calibration
    findings: tuple[Finding, ...]  # one for each probe
    conclusion: Conclusion
    comparison: Comparison | None

    @property
    def exit_code(self) -> int:
        """The exit status of the conclusion, or EXIT_DIFFERENT if only the comparison found a difference."""
        differs = self.comparison is not None and not self.comparison.agree
        return self.conclusion.exit_code or (EXIT_DIFFERENT if differs else 0)


def run_audit(
    client: ScoreClient,
    settings: AuditSettings | None = None,
    *,
    compare_to: ScoreClient | None = None,
    on_progress: ProgressCallback = lambda done, total, name: None,
) -> AuditReport:
    """Audits a server.

    Args:
        client: of the server.
        settings: the default ones if None.
        compare_to: client of another server to compare with.
        on_progress: called before each step and at the end.

    Raises:
        ServerError: a server cannot be reached, or stops following the API before a leak was found.
        ValueError: two servers cannot be compared.
    """
    settings = settings or AuditSettings()
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    instrument = Instrument(client, settings)
    total = 1 + len(PROBES) + (compare_to is not None)
    on_progress(0, total, "noise")
    _calibrate(instrument)
    model = instrument.model
    comparison = None
    if compare_to is not None:  # first, so that an unreachable server is noticed at once
        on_progress(1, total, "backend_comparison")
        other = Instrument(compare_to, settings)
        _calibrate(other)
        comparison = compare(instrument, other)
    findings = _run_probes(
        instrument, lambda done, name: on_progress(total - len(PROBES) + done, total, name)
    )
    on_progress(total, total, "")
    return AuditReport(
        server_url=client.server_url,
        model=model,
        scale=str(client.scale),
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        num_requests=client.num_requests,
        settings=settings,
        calibration=instrument.calibration,
        findings=tuple(findings),
        conclusion=conclude(
            findings,
            sees_items=instrument.sees_items,
            most_items=client.most_items,
            most_tokens=client.most_tokens,
        ),
        comparison=comparison,
    )


def _calibrate(instrument: Instrument) -> None:
    try:
        instrument.calibrate()
    except Rejected as error:
        labels = "" if instrument.client.sends_labels else "; give labels if it scores labels only"
        if "text_1" in str(error) or "queries" in str(error):
            labels = "; it takes pairs of texts, as vLLM does, and the audit needs a route that takes a query and items"
        raise ServerError(
            f"{instrument.client.server_url} refuses an ordinary request: {error}{labels}"
        ) from error


def _run_probes(instrument: Instrument, on_progress: Callable[[int, str], None]) -> list[Finding]:
    """Returns the findings of all probes. If the server breaks on an ordinary one, that one and the rest have failed.

    Raises:
        ServerError: the server broke before a leak was found.
    """
    findings: list[Finding] = []
    for probe in PROBES:
        on_progress(len(findings), probe.name)
        try:
            findings.append(_run_probe(probe, instrument))
        except ServerError as error:
            if all(finding.verdict != "leak" for finding in findings):
                raise
            findings += [_failed(one, error) for one in PROBES[len(findings) :]]
            break
    return findings


def _run_probe(probe: Probe, instrument: Instrument) -> Finding:
    finding = _measure(probe, instrument)
    if finding.verdict != "leak" or probe.sporadic:
        return finding
    # A leak appears again; noise that the calibration missed does not.
    again = _measure(probe, instrument)
    if again.verdict == "leak":
        return finding
    seen = f"an effect of {finding.effect:.3g}"
    if again.effect is None:
        reason = f"{seen} could not be measured again: {again.reason}"
    else:
        reason = f"{seen} did not appear again"
    return dataclasses.replace(finding, verdict="inconclusive", reason=reason)


def _measure(probe: Probe, instrument: Instrument) -> Finding:
    try:
        measurement = probe.measure(instrument)
    except Rejected as error:
        return Finding(probe.name, probe.question, "rejected", reason=str(error))
    except ServerError as error:
        if not probe.hostile:
            raise
        return _failed(probe, error)
    threshold = instrument.threshold(shape_changes=measurement.shape_changes)
    return judge(probe.name, probe.question, measurement, threshold)


def _failed(probe: Probe, error: ServerError) -> Finding:
    return Finding(probe.name, probe.question, "failed", reason=str(error))
