"""A directory on any file system that pyarrow opens, whose files appear whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import Any

OWN = "_isoprefill"  # readers of lakes leave out what begins with "_"
SCRATCH = f"{OWN}/scratch"  # where files grow that are moved into place


def open_place(place: str) -> tuple[Any, str]:
    """Returns the pyarrow file system of a path or URI, and the path on it.

    Raises:
        ValueError: there is no such file system; names the place.
    """
    from pyarrow import fs

    if "://" not in place:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(place))
    try:
        return fs.FileSystem.from_uri(place)
    except (OSError, ValueError) as error:  # pyarrow's own errors are these
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{place} cannot be opened: {reason}") from None


class Directory:
    """A directory; its files are written once, by any number of processes, with the same content."""

    def __init__(self, place: str) -> None:
        """Takes a path or URI; nothing is made yet."""
        self.place = place
        self.fs, self.root = open_place(place)

    def make(self, *names: str) -> None:
        """Makes directories in it."""
        for name in names:
            self.fs.create_dir(self._path(name), recursive=True)

    def names(self, below: str = "") -> list[str]:
        """Returns what lies in the directory, or in one in it, sorted; nothing if there is no such directory."""
        from pyarrow import fs

        selector = fs.FileSelector(self._path(below), allow_not_found=True)
        return sorted(info.base_name for info in self.fs.get_file_info(selector))

    def files(self, below: str) -> list[str]:
        """Returns the paths, in a directory in it, of all files below that."""
        from pyarrow import fs

        root = self._path(below)
        selector = fs.FileSelector(root, allow_not_found=True, recursive=True)
        infos = self.fs.get_file_info(selector)
        return [one.path[len(root) + 1 :] for one in infos if one.type == fs.FileType.File]

    def exists(self, name: str) -> bool:
        from pyarrow import fs

        return bool(self.fs.get_file_info(self._path(name)).type == fs.FileType.File)

    def open(self, name: str) -> Any:
        """Opens a file for reading anywhere in it."""
        return self.fs.open_input_file(self._path(name))

    def read_text(self, name: str) -> str:
        with self.fs.open_input_stream(self._path(name)) as file:
            return str(file.read().decode())

    def write_text(self, name: str, text: str) -> None:
        with self.writing(name) as file:
            file.write(text.encode())

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """Yields a file that gets its name when all of it is written, and on a local disk lies there.

        An object store shows an object only when it is closed. But closing it is all that pyarrow can do with it, so it
        is begun when nothing of the caller's can fail. Elsewhere the file grows in SCRATCH and is moved.
        """
        import pyarrow as pa
        from pyarrow import fs

        path = self._path(name)
        if self.fs.type_name in ("s3", "gcs", "abfs"):
            whole = pa.BufferOutputStream()
            yield whole
            with self.fs.open_output_stream(path) as file:
                file.write(whole.getvalue())
            return
        scratch = self._path(f"{SCRATCH}/{uuid.uuid4().hex}")
        with self.fs.open_output_stream(scratch) as file:
            yield file
        if isinstance(self.fs, fs.LocalFileSystem):
            _flush(scratch)
        self.fs.move(scratch, path)
        if isinstance(self.fs, fs.LocalFileSystem):
            _flush(os.path.dirname(path))

    def remove(self, name: str) -> None:
        """Removes a directory in it, if there is one."""
        from pyarrow import fs

        if self.fs.get_file_info(self._path(name)).type == fs.FileType.Directory:
            self.fs.delete_dir(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


def _flush(path: str) -> None:
    """Waits until a file or directory lies on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
