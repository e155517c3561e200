"""Tells whether a /v1/score server isolates items: whether an item's score depends on its neighbours.

It uses only HTTP, so it can audit any server, whatever computes the scores.
"""

from isoprefill.audit.client import Rejected, ScoreClient, ServerError
from isoprefill.audit.conclusion import EXIT_CODES, Conclusion
from isoprefill.audit.run import AuditReport, run_audit
from isoprefill.audit.settings import AuditSettings

__all__ = [
    "EXIT_CODES",
    "AuditReport",
    "AuditSettings",
    "Conclusion",
    "Rejected",
    "ScoreClient",
    "ServerError",
    "run_audit",
]
