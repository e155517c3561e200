"""The flags of every command: what they refuse, in words that help, and what `--help` says about them."""

import importlib

import pytest

from isoprefill.cli.command_flags import CommandFlags
from isoprefill.cli.flag_help import help_text
from isoprefill.cli.flag_kinds import Choice, Integer, Integers, Number, Switch
from isoprefill.cli.main import COMMANDS
from isoprefill.settings import within

MODULES = {name: importlib.import_module(f"isoprefill.cli.{name}") for name in COMMANDS}
NO_NUMBERS = [
    "x",
    "1e999",
    "nan",
    "inf",
    "-inf",
    "",
    "1,2",
    "9" * 5000,
    "\uff11",
    "\u0663",
    "1_0",
    "0x10",
    " 1",
    "1 ",
]
FLAGS = [
    pytest.param(module.FLAGS, flag, id=f"{name}-{flag.name}")
    for name, module in MODULES.items()
    for flag in module.FLAGS
]


def refusal(command: CommandFlags, argument: str) -> str:
    try:
        with pytest.raises(ValueError) as refused:  # noqa: PT011 - the caller looks at the words
            command.parse(["program", argument])
        return str(refused.value)
    finally:
        command.values.unparse_flags()


def bad_values(kind) -> list[str]:
    """Values that a flag of this kind must not take."""
    if isinstance(kind, Switch):
        return ["maybe", "2", "None"]
    if isinstance(kind, Choice):
        return ["", "x", kind.choices[0].upper(), " ".join(kind.choices)]
    values = [one for one in NO_NUMBERS if one or not isinstance(kind, Integers)]
    if isinstance(kind, Integers):
        values = [one for one in values if one != "1,2"] + ["1,,x", "1.5"]
    elif isinstance(kind, Integer):
        values += ["1e9", "1.5", "0x"]
    return values + [
        one for one in ("-1", "0", "1e9", "10000001") if not within(float(one), kind.bounds)
    ]


@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(command, flag):
    """Else somebody reads "invalid literal for int() with base 10", or a limit becomes NaN and holds nothing."""
    kind = flag.parser
    if not isinstance(kind, Switch | Choice | Number):
        return  # a text, which is checked where it is used
    for value in bad_values(kind):
        said = refusal(command, f"--{flag.name}={value}")
        assert said.startswith(f"--{flag.name} must be {kind.allowed()}, got '"), value
        assert len(said) < 400
        assert said.endswith(f"{value[-10:]}'")


def test_every_number_has_a_range_or_none_on_purpose():
    """A flag without bounds takes negative sizes and times, which fail far from it."""
    unbounded = {
        flag.name
        for module in MODULES.values()
        for flag in module.FLAGS
        if isinstance(flag.parser, Number) and not flag.parser.bounds
    }
    assert not unbounded


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_and_their_texts_are_values_that_a_flag_takes(name):
    """What --print-config and the help show can be given back."""
    for flag in MODULES[name].FLAGS:
        if isinstance(flag.parser, Switch | Choice | Number) and flag.default is not None:
            shown = flag.default
            text = ",".join(map(str, shown)) if isinstance(shown, list) else str(shown)
            assert flag.parser.parse(text) == flag.default


def test_what_is_no_flag_and_what_lacks_a_value():
    command = MODULES["score"].FLAGS
    assert refusal(command, "--topp=3").startswith("unknown flag --topp; did you mean --top? (")
    assert refusal(command, "--quite-another").startswith("unknown flag --quite-another (--help")
    assert refusal(command, "--top") == "--top needs a value"


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_and_lists_every_flag_once(name, width):
    """A terminal that breaks the lines again makes the columns unreadable."""
    module = MODULES[name]
    text = help_text(module.__doc__, module.FLAGS, width)
    examples = [line for line in text.splitlines() if line.startswith("    isoprefill ")]
    lines = [line for line in text.splitlines() if line not in examples]
    longest_word = max(len(word) for line in lines for word in line.split())
    assert max(map(len, lines)) <= max(width, longest_word + 24)
    assert max(map(len, examples)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  --")]
    assert sorted(listed) == sorted(f"--{flag.name}" for flag in module.FLAGS)
    words = " ".join(text.split())
    assert "isoprefill.cli" not in words
    assert "repeat this option" not in words, "absl's words"
    assert "Exit status: 0" in words
    if width == 200:
        for flag in module.FLAGS:
            # absl adds words of its own where a flag may be repeated.
            assert flag.help.partition(";\n")[0] in words
