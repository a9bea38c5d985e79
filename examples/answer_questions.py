"""Let a fine-tuned model answer questions about tales that it has not seen, and count the exact answers.

    npgpt demo --tasks answer                                 # makes runs/demo/answer, in half an hour
    python examples/answer_questions.py runs/demo/answer

Without a run it shows what is asked.
"""

import sys
from pathlib import Path

import npgpt
from npgpt.data.examples import read_examples
from npgpt.generation.answers import answers

examples = read_examples([Path(__file__).parents[1] / "data" / "answer.jsonl"])
if len(sys.argv) < 2:
    for example in examples[:2]:
        print(f"{example.prompt}[{example.completion}]\n")
    sys.exit()

model = npgpt.GPT.from_pretrained(sys.argv[1])
tokenizer = npgpt.Tokenizer.from_pretrained(sys.argv[1])
right = 0
for example, found in zip(examples, answers(model, tokenizer, (e.prompt for e in examples)), strict=True):
    question = example.prompt.split("\n\n")[-1].splitlines()[0]
    exact = found.strip() == example.completion.strip()
    right += exact
    print(f"{question}  ->  {found.strip()}" + ("" if exact else f"   (wrong: {example.completion.strip()})"))
print(f"\n{right} of {len(examples)} answers are exact")
