"""Words everything that can end a command as one line and an exit status."""

import contextlib
import errno
import os
import resource
import sys
import traceback
from collections.abc import Callable

from isoprefill.cli.entry import INTERRUPTED
from isoprefill.execution.failures import failure_of
from isoprefill.models.sources.pinned import FetchError

FAILED = 1
WRONG_USE = 2
NOBODY_READS = 141  # 128 + SIGPIPE

LONGEST_LINE = 1000  # characters
LEAST_OPEN_FILES = 32
LEAST_ADDRESS_SPACE = 2_000_000_000  # bytes that JAX and NumPy map before a model is loaded


class CommandFailed(RuntimeError):  # noqa: N818 - what it says
    """A command could not do its work, though it was used rightly; the message is one line."""


def guarded(name: str, work: Callable[[], int]) -> int:
    """Does the work of a command; returns the exit status. Whatever is raised becomes one line on stderr.

    Args:
        name: what begins the line.
        work: returns the exit status.
    """
    try:
        status = work()
        if sys.stdout is not None:
            sys.stdout.flush()  # else Python does it at its end, and shows where it failed
        return status
    except SystemExit:
        raise
    except BaseException as error:
        status, message = described(error)
        _drop_output()
        if message:
            _say(f"{name}: {message}")
        if _wants_frames():
            traceback.print_exc()
        return status


def described(error: BaseException) -> tuple[int, str]:
    """Returns the exit status and the line that an exception deserves; no line where nobody would read it."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, BrokenPipeError):
        return NOBODY_READS, ""
    failure = failure_of(error)
    if failure is not None:
        return FAILED, one_line(failure)
    if isinstance(error, CommandFailed | FetchError):
        return FAILED, one_line(str(error))
    if isinstance(error, OSError):
        return FAILED, one_line(_of_system(error))
    if isinstance(error, ImportError):
        return FAILED, one_line(
            f"a package cannot be loaded: {error}. Check that it is installed, and that there is memory for it"
        )
    if isinstance(error, ValueError):
        return WRONG_USE, one_line(str(error))
    if type(error) is RuntimeError and "home directory" in str(error):  # of pathlib, for "~"
        return WRONG_USE, one_line(f"{error} Give paths in full instead of with ~.")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return FAILED, one_line(
        f"internal error at {place}: {type(error).__name__}: {error} (a fault of isoprefill; --verbosity=1 shows more)"
    )


def check_limits() -> None:
    """Raises CommandFailed if this process may map or open less than any command needs: libraries would crash."""
    for limit, least, flag, what in (
        (resource.RLIMIT_NOFILE, LEAST_OPEN_FILES, "-n", "files may be open"),
        (resource.RLIMIT_AS, LEAST_ADDRESS_SPACE, "-v", "bytes of address space are allowed"),
    ):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and soft < least:
            shown = least if flag == "-n" else -(-least // 1024)
            raise CommandFailed(
                f"only {soft} {what}, and at least {least} are needed: raise the limit (ulimit {flag} {shown})"
            )


def require_output() -> None:
    """Raises CommandFailed if standard output is closed, before work is done for it."""
    if sys.stdout is None:
        raise CommandFailed("standard output is closed: redirect it to a file or to /dev/null")


def one_line(message: str) -> str:
    """Returns a message without line ends and control characters, and without its middle if it is very long."""
    words = " ".join(message.split())
    if len(words) > LONGEST_LINE:
        words = f"{words[: LONGEST_LINE // 2]}…{words[-LONGEST_LINE // 2 :]}"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in words)


def _of_system(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    about = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        about = about or "standard output: "
        return f"{about}{reason}: make room, or write elsewhere"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{about}{reason}: raise the limit (ulimit -n), now {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"
    return f"{about}{reason}"


def _drop_output() -> None:
    """Leaves nothing to write to standard output, or Python would try again at its end, and show that."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.stdout.flush()


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or none
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _wants_frames() -> bool:
    from absl import flags

    return bool(flags.FLAGS.is_parsed() and (flags.FLAGS["verbosity"].value or 0) > 0)
