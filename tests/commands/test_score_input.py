"""What the score command reads: the same text and the same items, whatever wrote the file."""

import json

import pytest

pytest_plugins = ["score_command_fixtures"]

TEXT = "Fragen Sie\nnach Käse"
LINES = [" Brötchen", "x ", " "]
WRITERS = {
    "UTF-8": lambda text: text.encode(),
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big": lambda text: b"\xfe\xff" + text.replace("\n", "\r\n").encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
}


def results(done) -> list[dict]:
    assert done.status == 0, done.stderr
    return json.loads(done.stdout)["results"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("from_stdin", [False, True], ids=["file", "stdin"])
def test_the_writer_of_a_file_does_not_matter(scored, tmp_path, write, from_stdin):
    """A line end or mark that stays in the text changes every score, and nobody sees it."""
    want = results(scored("--query", TEXT, *(f"--item={line}" for line in LINES), "--json"))
    (tmp_path / "query").write_bytes(write(TEXT + "\n"))
    items = write("\n".join(LINES) + "\n\n")
    (tmp_path / "items").write_bytes(items)
    name = "-" if from_stdin else "items"
    got = results(scored("--query-file=query", f"--items-file={name}", "--json", stdin=items))
    assert got == want
    by_query = scored("--query-file=-", "--items-file=items", "--json", stdin=write(TEXT))
    assert results(by_query) == want


HELD = {
    "lines of JSON": ('{"item": " a", "id": 7}\n\n  \n" b"\n', "jsonl", ["x.jsonl", "x.JSONL", "x.ndjson", "x.json"]),
    "objects first": ('\n{"item": " a", "id": 7}\n" b"\n', "jsonl", ["x", "-", "x.dat"]),
    "list": ('[{"item": " a", "id": 7},\n " b"]', "json", ["x.json", "x.Json"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "form", "names"), HELD.values(), ids=HELD.keys())
def test_json_is_recognised_by_name_by_content_and_by_flag(scored, tmp_path, text, form, names):
    """Else the braces are scored as if they were the item."""
    (tmp_path / "any.txt").write_text(text)
    runs = [["--items-file=any.txt", f"--input-format={form}"]]
    for name in names:
        if name != "-":
            (tmp_path / name).write_text(text)
        runs.append([f"--items-file={name}"])
    for arguments in runs:
        got = results(scored("--query=q", *arguments, "--json", stdin=text.encode()))
        assert [(one["index"], one["item"], one.get("id")) for one in got] == [
            (0, " a", 7),
            (1, " b", None),
        ]


def test_text_that_looks_like_json_is_text_where_it_is_said_so(scored, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"item": "a"}\n[1]\n')
    got = results(scored("--query=q", "--items-file=x.jsonl", "--input-format=text", "--json"))
    assert [one["item"] for one in got] == ['{"item": "a"}', "[1]"]


BAD = {
    "empty line": ("x", " a\n\n b\n", "x:2: the item is empty"),
    "not JSON": ("x.jsonl", '" a"\n{\n" b"', "x.jsonl:2: not JSON: "),
    "deep JSON": ("x.jsonl", '" a"\n' + "[" * 100_000 + '\n" b"', "x.jsonl:2: not JSON"),
    "large integer": ("x.jsonl", '" a"\n' + "1" * 5000 + '\n" b"', "x.jsonl:2: not usable JSON: a number has 5000"),
    "another key": ("x.jsonl", '" a"\n{"text": "c"}\n" b"', "x.jsonl:2: an object must have the key \"item\", got the "
                    "keys 'text'"),
    "no text": ("x.jsonl", '" a"\n{"item": 5}\n" b"', 'x.jsonl:2: "item" must be a string, got a number'),
    "null": ("x.jsonl", '" a"\n{"item": null}\n" b"', 'x.jsonl:2: "item" must be a string, got null'),
    "a number": ("x.jsonl", '" a"\n3\n" b"', "x.jsonl:2: expected a string or an object with a string \"item\", got a "
                 "number"),
    "key twice": ("x.jsonl", '" a"\n{"item": "c", "item": "d"}\n" b"', "x.jsonl:2: not usable JSON: the key 'item' o"),
    "many keys": ("x.jsonl", '" a"\n{' + "".join(f'"k{n}": 1, ' for n in range(100_000)) + '"k9": 1}\n" b"',
                  "x.jsonl:2: not usable JSON: the key 'k9' occurs twice"),
    "no number": ("x.jsonl", '" a"\n{"item": "c", "n": NaN}\n" b"', "x.jsonl:2: not usable JSON: NaN is"),
    "no double": ("x.jsonl", '" a"\n{"item": "c", "n": 1e999}\n" b"', "x.jsonl:2: not usable JSON: the number 1e999 is "
                  "beyond the range of a double"),
    "half a character": ("x.jsonl", '" a"\n"\\ud800"\n" b"', "x.jsonl:2: the item: text must be valid Unicode, but has "
                         "half of a surrogate pair, '\\ud800', at 0"),
    "too long": ("x", " a\n" + "z" * 600 + "\n b\n", "x:2: query and the item must have at most 512 tokens"),
    "in a list": ("x.json", '[" a", "", " b"]', "x.json[1]: the item is empty"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_item_is_named_and_can_be_skipped(scored, tmp_path, name, text, message):
    """One line among 100,000 must be found, and must not cost the others."""
    (tmp_path / name).write_text(text)
    arguments = ["--query=q", f"--items-file={name}", "--format=jsonl"]
    done = scored(*arguments)
    assert done.status == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "--skip-invalid" in done.stderr
    for order in ("score", "input"):
        done = scored(*arguments, "--skip-invalid", f"--sort={order}")
        assert done.status == 0, done.stderr
        assert done.stderr.startswith(f"score: skipped {message.partition(' ')[0]}")
        assert len(done.stderr.splitlines()) == 1
        rows = sorted((row["index"], row["item"]) for row in map(json.loads, done.lines))
        assert rows == [(0, " a"), (2, " b")]


def test_a_query_that_is_too_long_is_not_blamed_on_an_item(scored):
    """The first item was named, and --skip-invalid advised, which then refused every item."""
    for arguments in ([], ["--skip-invalid"], ["--sort=input"]):
        done = scored(f"--query={'z' * 600}", "--item=a", "--item=b", *arguments)
        assert (done.status, done.stdout) == (2, "")
        assert done.stderr.startswith(
            "score: query must have at most 511 tokens, so that there is "
        )
        assert done.stderr.endswith(" got 600: shorten it\n")


def test_if_every_item_is_bad_that_is_an_error(scored, tmp_path):
    (tmp_path / "x").write_text("z" * 600)
    for order in ("score", "input"):
        done = scored("--query=q", "--items-file=x", "--skip-invalid", f"--sort={order}")
        assert (done.status, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1] == "score: no item is left that can be scored"
    (tmp_path / "x").write_text("\n\n a\n")
    done = scored("--query=q", "--items-file=x", "--skip-invalid", "--json")
    assert [one["index"] for one in results(done)] == [2]


UNREADABLE = {
    "UTF-16 without a mark": ("some words".encode("utf-16-le"), "looks like UTF-16LE without"),
    "the other UTF-16": ("some words".encode("utf-16-be"), "looks like UTF-16BE without"),
    "Latin-1": (b"ok\n\xe9t\xe9\n", "is not UTF-8 text: byte 3, line 2"),
    "half a UTF-16": (b"\xff\xfea", "is not UTF-16-LE text: byte 2"),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_encoding_that_is_not_read_is_named(scored, tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    for arguments in (["--query=q", "--items-file=x"], ["--item=a", "--query-file=x"]):
        done = scored(*arguments)
        assert done.status == 2
        assert f"x {message}" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_standard_input_is_read_once_and_files_are_bounded(scored, monkeypatch):
    done = scored("--query-file=-", "--items-file=-", stdin=b"a")
    assert (done.status, "only one of" in done.stderr) == (2, True)
    monkeypatch.setattr("isoprefill.cli.text_files.MAX_BYTES", 1000)
    done = scored("--query=q", "--items-file=/dev/zero")
    assert (done.status, "more than 1000 bytes" in done.stderr) == (2, True)


def test_an_escape_in_a_query_is_pointed_out(scored):
    r"""In single quotes a shell leaves \n as two characters, and the scores are those of another text."""
    assert "--query holds the two characters \\n" in scored("--query=a\\nb", "--item=c").stderr
    assert not scored("--query=a\nb", "--item=c").stderr


def test_arguments_are_utf_8_in_every_locale(scored, monkeypatch):
    """In the C locale Python reads them as bytes that stand for themselves."""
    want = results(scored("--query=é", "--item=日", "--json"))
    monkeypatch.setattr("os.fsencode", lambda text: text.encode("ascii", "surrogateescape"))
    as_bytes = [
        text.encode().decode("ascii", "surrogateescape") for text in ("--query=é", "--item=日")
    ]
    assert results(scored(*as_bytes, "--json")) == want
    assert "standard input contains no items" in scored("--query=q", "--items-file=-").stderr
