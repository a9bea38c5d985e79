"""Let a fine-tuned model translate a tale into Chinese and back, and compare what happens in the three texts.

    npgpt demo --tasks translate                              # makes runs/demo/translate, in half an hour
    python examples/translate.py runs/demo/translate

Without a run it compares a tale with its Chinese telling from data/.
"""

import sys
from pathlib import Path

import npgpt
from npgpt.data.examples import read_examples
from npgpt.data.tales import NotATaleError, parse
from npgpt.generation.answers import answers

PROMPTS = {"zh": "{}\n\nIn Chinese:\n", "en": "{}\n\n译成英文：\n"}  # as in the examples it was trained on


def compare(text: str, lang: str, wanted: tuple) -> str:
    """Say whether a text tells the same events, whatever its words."""
    try:
        return "the same events" if parse(text, lang).facts() == wanted else "other events"
    except NotATaleError as error:
        return f"not a tale: {error}"


example = read_examples([Path(__file__).parents[1] / "data" / "translate.jsonl"])[0]
tale = example.prompt.split("\n\nIn Chinese:")[0]
facts = parse(tale, "en").facts()
if len(sys.argv) < 2:
    print(f"{tale}\n\n{example.completion}\n\n{compare(example.completion, 'zh', facts)}")
    sys.exit()

model = npgpt.GPT.from_pretrained(sys.argv[1])
tokenizer = npgpt.Tokenizer.from_pretrained(sys.argv[1])
print(tale)
for lang in ("zh", "en"):
    (tale,) = answers(model, tokenizer, [PROMPTS[lang].format(tale)])
    print(f"\n{tale}\n\n   {compare(tale, lang, facts)}")
