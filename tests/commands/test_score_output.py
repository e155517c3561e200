"""What the score command prints: tables that fit, formats that programs read back, progress."""

import csv
import functools
import io
import json
import re
import time

import numpy as np
import pytest
from rich.cells import cell_len

from isoprefill.cli import progress
from isoprefill.cli.item_files import Item
from isoprefill.cli.score_rows import Row
from isoprefill.cli.score_table import shortened, table_lines

pytest_plugins = ["score_command_fixtures"]

TEXTS = {
    "short": " Paris",
    "long": " a city that many people like to visit in the summer." * 40,
    "wide": " 東京都は日本の首都です。" * 20,
    "combining": " e\u0301a\u0308" * 60,
    "bidirectional": " שלום 123 عالم " * 20,
    "emoji": " 👨\u200d👩\u200d👧🇩🇪" * 30,
    "control": " a\n\t\x1b[31m\u202e\u2066b",
    "marks": "\u0301" * 5000,
    "half": "\ud800",
}
WIDTHS = (20, 40, 80, 200)


@pytest.fixture
def asked(scored):
    """Runs the command with a query."""
    return functools.partial(scored, "--query=q")


def rows(texts, labels=0):
    return [
        Row(
            Item(text, 99_999 - index, f"x:{index}", {"id": f"doc-{index}"}),
            index + 1,
            tuple(2.907e-05 / (place + 1) for place in range(labels)) or (-12345.6789,),
            None if labels else -0.5,
            0.25,
            12_345,
        )
        for index, text in enumerate(texts)
    ]


@pytest.mark.parametrize("labels", [0, 1, 6, 40])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("order", ["score", "mean"])
def test_the_table_fits_and_no_number_is_cut(width, labels, order):
    """A row that wraps, or a number with its end cut off, is worse than no table."""
    if labels and order == "mean":
        return
    names = [f"P(' label number {place}')" * (place % 3 + 1) for place in range(labels)]
    made = rows(TEXTS.values(), labels)
    lines = list(table_lines(made, names, order, width))
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for row in made:
        assert re.search(rf"\b{row.item.index}\b", text), "the index is missing"
        numbers = [f"{score:.4g}" for score in row.scores] if labels else ["-12345.6789"]
        if order == "mean":
            numbers = ["-0.5000"]
        for number in numbers:
            assert text.count(number) >= len(made), f"{number} is cut"
    assert not any(char in text for char in "\x1b\t\u202e\u2066"), (
        "an item moves the text around it"
    )
    if width == 200 and labels <= 1:
        assert len(lines) == len(made) + 1


def test_numbers_stand_below_each_other():
    """Whatever the cells of an item: wide characters and marks count as they are shown."""
    lines = list(table_lines(rows(TEXTS.values()), [], "score", 100))
    end = lines[0].index("score") + len("score")
    for line in lines[1:]:
        before = line[: line.index("-12345.6789") + len("-12345.6789")]
        assert cell_len(before) == end


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("width", [4, 12, 13, 40])
def test_a_shortened_item_keeps_its_ends(text, width):
    short = shortened(text, width)
    assert cell_len(short) <= width
    plain = short.strip("\u2068\u2069")
    if "…" in plain:
        head, _, tail = plain.partition("…")
        shown = shortened(text, 10**6).strip("\u2068\u2069")
        assert shown.startswith(head)
        assert shown.endswith(tail)
        assert cell_len(short) >= width - 2 or text == TEXTS["marks"], "room is wasted"
        assert abs(cell_len(head) - cell_len(tail)) <= 2 or text == TEXTS["marks"]
    if text == TEXTS["bidirectional"]:
        assert short[0] + short[-1] == "\u2068\u2069", "it would turn the numbers beside it around"


INPUT = [
    {"item": "ab", "id": "x-1", "score": 7, "tags": ["a", "b"]},
    {"item": "a\tb\\n\nc,\"d\"", "id": None},
    {"item": "z" * 40, "id": 3, "url": "http://x/?a=1\nb\rc"},
    "é",
]  # fmt: skip


@pytest.fixture
def items_file(tmp_path):
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, INPUT)))
    return "--items-file=in.jsonl"


def unescaped(value: str) -> str:
    return re.sub(
        r"\\(.)", lambda found: {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}[found[1]], value
    )


def read_back(form: str, text: str) -> list[dict[str, str]]:
    """The rows, by the format's own rules."""
    if form == "jsonl":
        return [
            {key: str(value) for key, value in json.loads(line).items()}
            for line in text.splitlines()
        ]
    if form == "csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    lines = [[unescaped(value) for value in line.split("\t")] for line in text.split("\n")[:-1]]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("labels", [[], ["--labels=a", "--labels=b"]])
def test_every_format_says_the_same(asked, items_file, form, labels):
    """Items, indices, ids and further fields come back whole, and numbers as the JSON object has them."""
    want = json.loads(asked(items_file, "--json", *labels).stdout)["results"]
    assert [one["index"] for one in want] == [0, 1, 2, 3]
    for order in ("score", "input"):
        rows = read_back(
            form, asked(items_file, f"--format={form}", f"--sort={order}", *labels).stdout
        )
        ranked = sorted(want, key=lambda one: one["rank"]) if order == "score" else want
        assert ("rank" in rows[0]) == (order == "score")
        for row, one in zip(rows, ranked, strict=True):
            given = INPUT[one["index"]]
            given = {"item": given} if isinstance(given, str) else given
            assert row["item"] == one["item"] == given["item"]
            assert int(row["index"]) == one["index"]
            assert int(row["num_tokens"]) == one["num_tokens"] == len(given["item"].encode())
            assert row.get("input_score") in (None, "") or row["input_score"] == str(given["score"])
            assert one.get("input_score") == given.get("score")
            assert row.get("url") in (None, "", given.get("url"))
            assert row.get("id") in ("", None, str(given.get("id")))
            names = ["P('a')", "P('b')"] if labels else ["score"]
            scores = one["scores"] if labels else [one["score"]]
            if form == "jsonl" and labels:
                assert json.loads(row["scores"]) == scores
                assert row["labels"] == "['a', 'b']"
            else:
                np.testing.assert_allclose([float(row[name]) for name in names], scores, rtol=1e-8)
            if not labels:
                assert float(row["mean"]) == pytest.approx(one["score"] / one["num_tokens"])


def test_a_pipe_gets_lines_and_a_terminal_a_table(asked, items_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    piped = asked(items_file)
    assert piped.lines[0].startswith("rank\tindex\titem\tscore")
    assert len(piped.lines) == 1 + len(INPUT)
    shown = asked(items_file, terminal=True)
    assert shown.lines[0].split() == [
        "rank",
        "index",
        "id",
        "item",
        "score",
        "probability",
        "tokens",
    ]
    assert len(shown.lines) == 2 + len(INPUT)
    assert max(map(cell_len, shown.lines)) <= 80
    assert "\u001b" not in shown.stdout


def test_a_label_of_any_characters_is_one_cell_of_the_header(asked):
    """Escaped as everything in TSV is, and not once more: a reader undoes it as in any other cell."""
    label = "it's\ta \\ and\na line"
    arguments = ["--item=a", f"--labels={label}", "--labels= b"]
    rows = read_back("tsv", asked(*arguments, "--format=tsv").stdout)
    assert f"P('{label}')" in rows[0]
    assert f"P('{label}')" in read_back("csv", asked(*arguments, "--format=csv").stdout)[0]
    header = asked(*arguments, "--format=table").lines[0]
    assert "P('it's\\ta " in header
    assert len(asked(*arguments, "--format=table").lines) == 3


def test_order_and_number_of_rows(asked, items_file):
    """The best by sum and by mean are other items: a long one always loses by its sum."""
    everything = json.loads(asked(items_file, "--json").stdout)["results"]
    for order, key in (("score", "score"), ("mean", "mean")):
        best = sorted(everything, key=lambda one: -one[key])[:2]
        for form in ("tsv", "jsonl", "json"):
            done = asked(items_file, f"--format={form}", f"--sort={order}", "--top=2")
            got = (
                json.loads(done.stdout)["results"]
                if form == "json"
                else read_back(form, done.stdout)
            )
            assert [int(one["index"]) for one in got] == [one["index"] for one in best]
            assert [int(one["rank"]) for one in got] == [1, 2]
    assert len(asked(items_file, "--top=99").lines) == 1 + len(INPUT)


REFUSED = {
    "mean of labels": (["--sort=mean", "--labels=a"], "--sort mean is for likelihoods"),
    "the first two": (["--sort=input", "--top=2"], "--top needs --sort score or mean"),
    "two formats": (["--json", "--format=tsv"], "--json is --format json"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_orders_and_formats_that_contradict_each_other(asked, arguments, message):
    done = asked("--item=a", *arguments)
    assert (done.status, message in done.stderr) == (2, True)


def test_too_many_columns_are_refused_for_tables_only(asked, tmp_path):
    """100,000 lines with keys of their own would fill the disk with empty cells."""
    (tmp_path / "x.jsonl").write_text(
        "\n".join(f'{{"item": "a", "k{number}": 1}}' for number in range(99))
    )
    assert "use --format jsonl" in asked("--items-file=x.jsonl").stderr
    assert len(asked("--items-file=x.jsonl", "--format=jsonl").lines) == 99


def test_rows_are_printed_while_scoring_goes_on(asked, tmp_path, monkeypatch, engine):
    """Whoever reads the pipe has the first rows before the last are scored."""
    monkeypatch.setattr("isoprefill.cli.scoring.STREAM_ITEMS", 2)
    (tmp_path / "x").write_text("\n".join("abcdefg"))
    written, inner = [], type(engine).score_batch

    def score_batch(self, requests, **options):
        import sys

        written.append(len(sys.stdout.text.splitlines()))
        return inner(self, requests, **options)

    monkeypatch.setattr(type(engine), "score_batch", score_batch)
    done = asked("--items-file=x", "--sort=input")
    assert written == [0, 3, 5, 7]
    assert [line.split("\t")[1] for line in done.lines] == ["item", *"abcdefg"]
    written.clear()
    assert len(asked("--items-file=x", "--sort=score").lines) == 8
    assert written == [0]


def test_a_line_of_progress_where_stderr_is_no_terminal(asked, monkeypatch, engine):
    """Two minutes without a word look like a program that hangs."""
    monkeypatch.setattr(progress, "LINE_S", 0.01)
    inner = type(engine).score_batch

    def score_batch(self, requests, **options):
        done = inner(self, requests, **options)
        time.sleep(0.1)
        return done

    monkeypatch.setattr(type(engine), "score_batch", score_batch)
    done = asked("--item=a", "--item=b")
    assert re.search(r"^score: 2 of 2 items scored, \d+ s$", done.stderr, re.M), done.stderr
    assert len(done.lines) == 3
