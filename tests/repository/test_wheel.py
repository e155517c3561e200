"""The wheel: what pip installs works without the checkout, on each Python that is present."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import mypy.api
import pytest

from isoprefill.models.sources import pinned

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = {"isoprefill": "python", "isoprefill_sglang_jax": "python", "isoprefill_pallas": "pallas"}
STUBS = "isoprefill_csrc-stubs/__init__.pyi"
PIP_INSTALL = ("-m", "pip", "install", "--no-index", "--no-cache-dir", "--no-build-isolation")


def read_pythons():
    """Returns the interpreter, or why there is none, by version; each has the locked packages installed."""
    (listing,) = ROOT.parent.glob("*pypi_each_python/pythons.txt")
    return dict(line.split(": ", 1) for line in listing.read_text().splitlines())


# What does not depend on the version is shown for Bazel's own.
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
with_one_python = pytest.mark.parametrize("python", [OWN], indirect=True, scope="module")


@pytest.fixture(params=["3.11", "3.12", "3.13"], scope="module")
def python(request):
    """An interpreter of each version that is present."""
    found = read_pythons()[request.param]
    if found.startswith("absent"):
        pytest.skip(f"Python {request.param} {found}")
    return pathlib.Path(found)


def run(*command, **environment):
    """Runs a command outside the checkout, without Bazel's PYTHONPATH; returns its output."""
    plain = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "RUNFILES"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd="/",
        env=plain | environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(python):
    """The wheel for that interpreter; //:wheel is the one for Bazel's own."""
    version = python.parent.parent.name
    (built,) = (ROOT / ("wheel" if version == OWN else f"wheel_{version}")).glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(python, wheel, tmp_path_factory):
    """The programs of an environment in which pip installed the wheel; the next one of its kind starts empty."""
    programs = make_environment(python, tmp_path_factory.mktemp("environment"))
    run(programs / "python", *PIP_INSTALL, wheel)
    return programs


def make_environment(python, directory):
    """Makes an environment beside the locked packages; returns where its programs are."""
    run(python, "-m", "venv", directory)
    # Python 3.11 puts a setuptools there that would hide the locked one, and cannot make wheels.
    run(directory / "bin" / "python", "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")
    # In place of a download: pip fails if the wheel declares a package that is not there.
    (site_of(directory / "bin") / "locked.pth").write_text(str(site_of(python.parent)))
    return directory / "bin"


def site_of(programs):
    """Where the packages of an environment are."""
    program = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return pathlib.Path(run(programs / "python", "-c", program).strip())


def test_it_holds_its_packages_and_nothing_else(wheel):
    """A forgotten data file or sub-package would be missed by users only; tests and sources would be clutter."""
    names = zipfile.ZipFile(wheel).namelist()
    files = {
        name
        for name in names
        if ".dist-info/" not in name and not name.startswith("isoprefill_csrc.")
    }
    expected = {STUBS}
    for package, room in ROOMS.items():
        for path in (ROOT / room / package).rglob("*"):
            if path.suffix in {".py", ".json", ".toml", ".typed", ".html", ".css", ".js", ".svg"}:
                expected.add(str(path.relative_to(ROOT / room)))
    assert files == expected
    assert (
        len(
            [name for name in names if name.startswith("isoprefill_csrc.") and name.endswith(".so")]
        )
        == 1
    )
    assert any(name.endswith("/LICENSE") for name in names)


def test_it_scores_in_a_clean_environment(clean, tmp_path):
    """What a user gets from pip must run by itself: the command, the extension, the packages that it declares."""
    where = run(
        clean / "python", "-c", "import isoprefill_csrc; print(isoprefill_csrc.__file__)"
    ).strip()
    assert pathlib.Path(where).parent == site_of(clean)

    model = pinned.locate("smollm2-135m")
    printed = run(
        *(
            clean / "isoprefill",
            "score",
            "--json",
            f"--model={model}",
            "--query=The capital of France is",
        ),
        *("--item= Paris", "--item= London", "--item= Berlin"),
        XDG_CACHE_HOME=str(tmp_path),
        HOME=str(tmp_path),
    )
    scores = {row["item"]: row["score"] for row in json.loads(printed)["results"]}
    assert scores[" Paris"] == pytest.approx(-0.2581, abs=1e-3)
    assert scores[" London"] == pytest.approx(-4.3844, abs=1e-3)
    assert scores[" Berlin"] == pytest.approx(-6.9207, abs=1e-3)


def test_the_extension_is_built_for_this_python(python, wheel):
    """A wheel tagged for one Python that holds another's extension installs and then fails to import."""
    suffix = run(
        python, "-c", "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
    ).strip()
    assert f"isoprefill_csrc{suffix}" in zipfile.ZipFile(wheel).namelist()
    assert wheel.name.split("-")[2] == f"cp{python.parent.parent.name.replace('.', '')}"
    assert wheel.name.endswith(
        sysconfig.get_platform().replace("-", "_").replace(".", "_") + ".whl"
    )


@with_one_python
def test_another_project_depends_on_it(clean, tmp_path):
    """examples/pip_consumer: pip finds isoprefill for it, and its own model scores items as if each were alone."""
    shutil.copytree(ROOT / "examples" / "pip_consumer", tmp_path / "project")
    run(clean / "python", *PIP_INSTALL, tmp_path / "project")
    printed = run(clean / "plain-jax-model", JAX_PLATFORMS="cpu")
    assert re.fullmatch(r"3 items together and one by one differ by \d\.\de-\d\d\n", printed)


def test_the_documented_model_is_the_one_that_ran():
    """The page shows lines of the example above: others were never run."""
    page = (ROOT / "docs" / "integration.md").read_text()
    (block,) = re.findall(r"```python\n(@jax.jit\n.*?)```", page, re.DOTALL)
    assert block in (ROOT / "examples" / "pip_consumer" / "plain_jax_model.py").read_text()


def test_another_project_is_refused_without_it(tmp_path):
    """The test above would show nothing if pip did not look for isoprefill."""
    present = [pathlib.Path(p) for p in read_pythons().values() if not p.startswith("absent")]
    if not present:
        pytest.skip("none of the Pythons is present")
    python = present[0]
    shutil.copytree(ROOT / "examples" / "pip_consumer", tmp_path / "project")
    programs = make_environment(python, tmp_path / "environment")
    done = subprocess.run(
        [programs / "python", *PIP_INSTALL, tmp_path / "project"], text=True, capture_output=True
    )
    assert done.returncode
    assert "No matching distribution found for isoprefill" in done.stderr


@with_one_python
def test_type_checkers_know_the_extension(clean, tmp_path):
    """Compiled modules have no types but those of the stubs: without them every call is Any, and a typo passes."""
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\n[mypy-numpy.*]\nfollow_imports = skip\n"
    )
    program = tmp_path / "program.py"
    program.write_text(
        "import isoprefill_csrc\n"
        "layout = isoprefill_csrc.build_layout(prefix_lens=[3], item_lens=[[1, 2]])\n"
        "reveal_type(layout.num_rows)\n"
        "layout.num_row\n"
    )
    checked, errors, _ = mypy.api.run(
        [
            f"--config-file={tmp_path / 'mypy.ini'}",
            f"--cache-dir={tmp_path / 'cache'}",
            f"--python-executable={clean / 'python'}",
            str(program),
        ]
    )
    assert not errors
    assert 'Revealed type is "builtins.int"' in checked or 'Revealed type is "int"' in checked
    assert '"Layout" has no attribute "num_row"' in checked
    assert "Found 1 error" in checked
