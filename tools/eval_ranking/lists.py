"""Lists to rank, made from WordNet: a query, and candidates of which one or two are right and half are hard."""

import dataclasses
import random
from collections.abc import Iterator

import wordnet
from wordnet import Noun

CANDIDATES = 20
TASKS = ("definition to word", "word to definition", "word to hypernym")


@dataclasses.dataclass(frozen=True, slots=True)
class Prompts:
    """The same question for each way to ask.

    Attributes:
        before, after: around the query where a candidate follows it.
        item: around a candidate where the query follows it, with {} for the candidate.
        query: after that, with {} for the query.
        instruction: what a relevant document is, for prompts that have a place for it.
    """

    before: str
    after: str
    item: str
    query: str
    instruction: str


PROMPTS = {
    "definition to word": Prompts(
        "Definition: ", ".\nWord:", "Word: {}\nDefinition:", " {}", "Find the word that is defined."
    ),
    "word to definition": Prompts(
        "Word: ",
        "\nDefinition:",
        "Definition: {}.\nWord:",
        " {}",
        "Find the definition of the word.",
    ),
    "word to hypernym": Prompts(
        "A kind of thing: the word ",
        " is a kind of",
        "Kind: {}\nExample:",
        " {}",
        "Find what it is a kind of.",
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class RankedList:
    """One list.

    Attributes:
        task: one of `TASKS`.
        query: text.
        candidates: texts, in random order.
        right: whether each is an answer.
    """

    task: str
    query: str
    candidates: tuple[str, ...]
    right: tuple[bool, ...]


def lists(task: str, number: int, seed: int) -> Iterator[RankedList]:
    """Yields so many lists of a task, the same for a seed."""
    generator = random.Random(f"{seed} {task}")
    while number:
        chosen = wordnet.of_one_kind(generator, CANDIDATES)
        first = chosen[0]
        answers = {first.offset}
        if task == "word to hypernym":
            above = [
                wordnet.by_offset()[one] for one in first.hypernyms if one in wordnet.by_offset()
            ]
            if not above:
                continue
            # Hard: what the other words are kinds of.
            others = [one for one in _above(chosen[1:]) if one not in above]
            chosen = [*above, *others, *chosen[1:]][:CANDIDATES]
            answers = {one.offset for one in above}
        generator.shuffle(chosen)
        texts = [one.definition if task == "word to definition" else one.word for one in chosen]
        query = first.definition if task == "definition to word" else first.word
        right = tuple(one.offset in answers for one in chosen)
        if len(set(texts)) == CANDIDATES:
            yield RankedList(task, query, tuple(texts), right)
            number -= 1


def _above(nouns: list[Noun]) -> list[Noun]:
    known = wordnet.by_offset()
    offsets = dict.fromkeys(one for noun in nouns for one in noun.hypernyms if one in known)
    return [known[offset] for offset in offsets][: CANDIDATES // 2]
