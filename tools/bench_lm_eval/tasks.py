"""A task of lm-evaluation-harness made from WordNet: a definition, and which of four words of one kind it is of."""

import json
import pathlib
import random
from typing import Any

import wordnet

TASK = "wordnet_definitions"
SHOTS = 10
CHOICES = 4

_YAML = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    train: {folder}/train.jsonl
    test: {folder}/test.jsonl
training_split: train
test_split: test
fewshot_split: train
num_fewshot: {shots}
fewshot_config:
  sampler: first_n
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: " "
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 1.0
"""


def write_task(folder: pathlib.Path, questions: int, seed: int = 0) -> None:
    """Writes the task's YAML and its data: `SHOTS` examples, then so many questions."""
    generator = random.Random(seed)
    documents = [_document(generator) for _ in range(SHOTS + questions)]
    for name, part in (("train", documents[:SHOTS]), ("test", documents[SHOTS:])):
        lines = [json.dumps(document) + "\n" for document in part]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    text = _YAML.format(task=TASK, folder=folder, shots=SHOTS)
    (folder / f"{TASK}.yaml").write_text(text)


def _document(generator: random.Random) -> dict[str, Any]:
    words = wordnet.of_one_kind(generator, CHOICES)
    right = words[0]
    generator.shuffle(words)
    kind = wordnet.KINDS[right.kind]
    listed = ", ".join(f'"{one.word}"' for one in words[:-1]) + f' and "{words[-1].word}"'
    prompt = (
        f"An entry of a dictionary of nouns, for a {kind}. Read the definition, and "
        f"say which one of the four words it defines.\nDefinition: {right.definition}.\nThe four words to choose "
        f"from are {listed}. Only one of them is right.\nAnswer: the word that is defined here is"
    )
    choices = [f'"{one.word}".' for one in words]
    return {"prompt": prompt, "choices": choices, "answer": words.index(right)}
