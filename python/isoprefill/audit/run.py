"""Runs an audit."""

import dataclasses
import datetime
import time
from collections.abc import Callable
from typing import Literal

from isoprefill.audit.client import Rejected, ScoreClient, ServerError
from isoprefill.audit.comparison import Comparison, compare
from isoprefill.audit.conclusion import EXIT_DIFFERENT, Conclusion, Reach, conclude
from isoprefill.audit.finding import Finding, Measurement, judge
from isoprefill.audit.instrument import Calibration, Instrument
from isoprefill.audit.probes import HOSTILE, PROBES, SPORADIC, Probe
from isoprefill.audit.settings import AuditSettings

# Called with (probes done, probes in all, the next one's name).
ProgressCallback = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class AuditReport:
    """Everything that an audit found out.

    Attributes:
        server_url: the server.
        model: the model's name in its answers.
        scale: whether it sends probabilities or log-probabilities.
        started: when, UTC, ISO 8601.
        seconds: how long it took.
        num_requests: how many requests it made.
        settings: what was to be done.
        calibration: what changes a score although nothing leaks.
        findings: one for each probe.
        conclusion: what follows.
        comparison: with another server, if there was one.
    """

    server_url: str
    model: str
    scale: str
    started: str
    seconds: float
    num_requests: int
    settings: AuditSettings
    calibration: Calibration
    findings: tuple[Finding, ...]
    conclusion: Conclusion
    comparison: Comparison | None

    @property
    def exit_code(self) -> int:
        """The conclusion's, but for an isolated server that another one contradicts."""
        if self.comparison is not None and not self.comparison.agree:
            return self.conclusion.exit_code or EXIT_DIFFERENT
        return self.conclusion.exit_code


def run_audit(
    client: ScoreClient,
    settings: AuditSettings | None = None,
    *,
    compare_to: ScoreClient | None = None,
    on_progress: ProgressCallback = lambda done, total, name: None,
) -> AuditReport:
    """Audits a server.

    Args:
        client: the server.
        settings: what to do.
        compare_to: another server to compare with.
        on_progress: called before each step and at the end.

    Raises:
        ServerError: a server cannot be reached, or does not do what the API says, before it has shown a leak.
        ValueError: two servers cannot be compared.
    """
    settings = settings or AuditSettings()
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    instrument = _instrument(client, settings)
    total = 1 + len(PROBES) + (compare_to is not None)
    on_progress(0, total, "noise")
    calibration, model = _calibrate(instrument)
    comparison = None
    if compare_to is not None:  # first: that the other server is not there shows at once
        on_progress(1, total, "backend_comparison")
        other = _instrument(compare_to, settings)
        _calibrate(other)
        comparison = compare(instrument, other, settings.compare_tolerance)
    findings = _run_probes(
        instrument,
        settings,
        lambda done, name: on_progress(total - len(PROBES) + done, total, name),
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
        calibration=calibration,
        findings=tuple(findings),
        conclusion=conclude(
            findings,
            sees_items=instrument.sees_items,
            reach=Reach(client.most_items, client.most_tokens),
        ),
        comparison=comparison,
    )


def _instrument(client: ScoreClient, settings: AuditSettings) -> Instrument:
    return Instrument(client, repeats=settings.repeats, tolerance=settings.tolerance)


def _calibrate(instrument: Instrument) -> tuple[Calibration, str]:
    try:
        return instrument.calibrate(), instrument.model
    except Rejected as error:
        labels = (
            "" if instrument.client.sends_labels else "; does it score labels only, and need them?"
        )
        raise ServerError(
            f"{instrument.client.server_url} refuses an ordinary request: {error}{labels}"
        ) from error


def _run_probes(
    instrument: Instrument, settings: AuditSettings, on_progress: Callable[[int, str], None]
) -> list[Finding]:
    """The findings of all probes; if the server breaks on an ordinary one, of those before it.

    Raises:
        ServerError: it broke and no leak had been found.
    """
    findings: list[Finding] = []
    for probe in PROBES:
        on_progress(len(findings), _name(probe))
        try:
            findings.append(_run_probe(probe, instrument, settings))
        except ServerError as error:
            if all(finding.verdict != "leak" for finding in findings):
                raise
            for missing in PROBES[len(findings) :]:
                findings.append(
                    Finding(_name(missing), _question(missing), "failed", reason=str(error))
                )
            break
    return findings


def _run_probe(probe: Probe, instrument: Instrument, settings: AuditSettings) -> Finding:
    name = _name(probe)
    question = _question(probe)
    measurement = _measured(probe, instrument, settings)
    if not isinstance(measurement, Measurement):
        verdict, reason = measurement
        return Finding(name, question, verdict, reason=reason)
    threshold = instrument.threshold(shape_changes=measurement.shape_changes)
    finding = judge(name, question, measurement, threshold)
    if finding.verdict != "leak" or probe in SPORADIC:
        return finding
    # A leak is there again. What is not was noise that the calibration did not meet.
    again = _measured(probe, instrument, settings)
    if not isinstance(again, Measurement):
        reason = f"an effect of {finding.effect:.3g} could not be measured again: {again[1]}"
    elif judge(name, question, again, threshold).verdict == "leak":
        return finding
    else:
        reason = f"an effect of {finding.effect:.3g} was not there again"
    return dataclasses.replace(finding, verdict="inconclusive", reason=reason)


def _measured(
    probe: Probe, instrument: Instrument, settings: AuditSettings
) -> Measurement | tuple[Literal["rejected", "failed"], str]:
    """What the probe measured, or what the server did instead, and why."""
    try:
        return probe(instrument, settings)
    except Rejected as error:
        return "rejected", str(error)
    except ServerError as error:
        if probe not in HOSTILE:
            raise
        return "failed", str(error)


def _name(probe: Probe) -> str:
    return probe.__name__


def _question(probe: Probe) -> str:
    return (probe.__doc__ or "").splitlines()[0]
