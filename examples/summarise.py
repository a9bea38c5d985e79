"""Let a fine-tuned model sum up tales that it has not seen, and say which facts it tells and whether any is false.

    npgpt demo --tasks summary                                # makes runs/demo/summary, in half an hour
    python examples/summarise.py runs/demo/summary

Without a run it judges two summaries made by hand, a right one and one with a slip.
"""

import itertools
import sys

import npgpt
from npgpt.data.tales import load_grammar
from npgpt.data.tales.corpus import TEST
from npgpt.data.tales.score import score
from npgpt.data.tales.tasks import examples
from npgpt.generation.answers import answers

found = list(itertools.islice(examples(0, ("summary",), part=TEST), 10))  # English and Chinese in turn
if len(sys.argv) < 2:
    example = found[0]
    print(example.prompt)
    tale = example.tale
    hero = tale.words["hero"]
    names = load_grammar().words["names"]
    other = next(word for word in names if word.en.he == hero.en.he and word not in tale.words.values())
    for summary in (example.completion, example.completion.replace(hero.en.name, other.en.name)):
        judged = score(example, summary)
        print(f"{summary}\n   key facts {judged.recall:.0%}, {judged.why or 'nothing false'}\n")
    sys.exit()

model = npgpt.GPT.from_pretrained(sys.argv[1])
tokenizer = npgpt.Tokenizer.from_pretrained(sys.argv[1])
for example, summary in zip(found, answers(model, tokenizer, (e.prompt for e in found)), strict=True):
    judged = score(example, summary)
    print(f"{example.prompt.splitlines()[0]}:\n  {summary.strip()}")
    print(f"  key facts {judged.recall:.0%}, {judged.why or 'nothing false'}\n")
