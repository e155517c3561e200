"""The command of lm-evaluation-harness with `isoprefill` among its models.

    python -m isoprefill.integrations.lm_eval --model isoprefill --model_args pretrained=smollm2-135m --tasks …

All arguments are those of `lm_eval`, which finds only the models that it brings or that were imported before.
"""

import sys


def main() -> None:
    """Registers the model and hands over."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        sys.exit(f"lm-evaluation-harness is missing ({error}): pip install 'isoprefill[lm-eval]'")
    import isoprefill.integrations.lm_eval.model  # noqa: F401  registers it

    cli_evaluate()


if __name__ == "__main__":
    main()
