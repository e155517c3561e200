"""Where an audit's report goes: its verdict survives whatever happens to the files."""

import io
import json
import os

import pytest
from rich.cells import cell_len
from rich.console import Console

from audited_servers import SHORT, audit, causal, computing, own
from command_line import run
from isoprefill.audit.terminal_report import print_report
from isoprefill.cli import audit as command
from local_server import serving

QUICK = ("--max-items=10", "--max-words=10", "--repeats=2", "--delimiter-text=x")


@pytest.fixture(scope="module")
def leaky_report():
    return audit(computing(causal), settings=SHORT)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_report_fits_a_terminal_and_cuts_no_number(leaky_report, width):
    """Markdown on a terminal is a wall of bars and dashes."""
    out = io.StringIO()
    print_report(leaky_report, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    assert lines[0].startswith("NO_ISOLATION: ")
    for finding in leaky_report.findings:
        assert finding.name in out.getvalue()
        for number in (finding.effect, finding.threshold):
            assert number is None or f"{number:.3g}" in out.getvalue()
    assert "| ---" not in out.getvalue()


@pytest.mark.parametrize("flag", ["--output", "--markdown", "--heat-map"])
def test_a_file_that_cannot_be_written_is_refused_before_the_audit(tmp_path, flag):
    """Nothing listens there: were the file looked at last, the server would be the fault."""
    loop, pipe = tmp_path / "loop", tmp_path / "pipe"
    loop.symlink_to("loop")
    os.mkfifo(pipe)
    for path in ("/dev/null/x", tmp_path, tmp_path / "absent" / "x", loop, pipe):
        done = run(command, "--server-url=http://127.0.0.1:9", f"{flag}={path}")
        assert done.status == 2
        assert f"{flag}: cannot write {path}: " in done.stderr
    loop.unlink()
    pipe.unlink()
    done = run(command, "--server-url=http://127.0.0.1:9", f"{flag}={tmp_path / 'x'}")
    assert "cannot be reached" in done.stderr
    assert not list(tmp_path.iterdir()), "a file without a report is left behind"


def test_a_link_to_a_file_that_is_not_there_yet_is_kept(tmp_path):
    """The look whether it can be written made its target, and removed the link."""
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    done = run(command, "--server-url=http://127.0.0.1:9", f"--output={link}")
    assert "cannot be reached" in done.stderr
    assert link.is_symlink()
    assert not target.exists()


def test_two_reports_in_one_file_are_refused(tmp_path):
    done = run(
        command, "--server-url=http://x", f"--output={tmp_path}/x", f"--markdown={tmp_path}/x"
    )
    assert (done.status, "different files" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("scores", "status"),
    [(causal, 4), (lambda query, items: [own(query, one) for one in items], 1)],
)
def test_the_verdict_survives_a_full_disk(tmp_path, scores, status):
    """An audit takes minutes: its verdict is told, and the other files are written. A lost report is no success."""
    with serving(computing(scores)) as url:
        done = run(
            command,
            f"--server-url={url}",
            *QUICK,
            "--output=/dev/full",
            f"--markdown={tmp_path / 'x.md'}",
        )
    verdict = "NO_ISOLATION" if status == 4 else "ISOLATED"
    assert done.status == status, done.stderr
    assert f"# Isolation audit: {verdict}" in done.stdout
    assert (tmp_path / "x.md").read_text() == done.stdout
    assert done.stderr == (
        f"audit: {verdict}, but the report could not be written to /dev/full: No space left on device\n"
    )


def test_a_terminal_gets_a_table_and_files_get_their_formats(tmp_path):
    with serving(computing(causal)) as url:
        done = run(
            command, f"--server-url={url}", *QUICK, f"--output={tmp_path / 'x'}", terminal=True
        )
    assert done.status == 4, done.stderr
    assert done.stdout.startswith("NO_ISOLATION: ")
    assert json.loads((tmp_path / "x").read_text())["summary"]["conclusion"] == "NO_ISOLATION"
