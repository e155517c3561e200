"""isoprefill as a model of lm-evaluation-harness: `python -m isoprefill.integrations.lm_eval` (docs/evaluation.md)."""
