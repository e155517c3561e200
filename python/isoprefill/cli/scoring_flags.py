"""Flags of score and batch: how log-probabilities become scores."""

from typing import NamedTuple

from absl import flags

from isoprefill.cli.command_flags import CommandFlags


class ScoringFlags(NamedTuple):
    """The flags, by the fields of `ScoreOptions`."""

    apply_softmax: flags.FlagHolder[bool]
    temperature: flags.FlagHolder[float | None]
    item_first: flags.FlagHolder[bool]


def define_scoring_flags(command: CommandFlags) -> ScoringFlags:
    """Defines them below the present heading of a command's help."""
    return ScoringFlags(
        command.switch(
            "softmax", "Normalise over the labels, or over a classification model's classes."
        ),
        command.number(
            "temperature", None, "With --softmax: divide the log-probabilities by this first.", gt=0
        ),
        command.switch("item-first", "Score item + query instead of query + item."),
    )
