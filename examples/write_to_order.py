"""Let a fine-tuned model write a tale with words that you give, as often as it takes until they are all in it.

    npgpt demo --tasks write                                  # makes runs/demo/write, in half an hour
    python examples/write_to_order.py runs/demo/write Mimi fox lantern
    python examples/write_to_order.py runs/demo/write 小明 小狐狸 灯笼

Names, animals and things of the tales are known to it: data/tales.en.txt has some. Without a run it shows an order and
a tale that fits.
"""

import sys
from pathlib import Path

import npgpt
from npgpt.data.examples import read_examples
from npgpt.data.tales import NotATaleError, language_of, parse
from npgpt.generation.answers import answer_tokens

if len(sys.argv) < 3:
    example = read_examples([Path(__file__).parents[1] / "data" / "write.jsonl"])[0]
    print(example.prompt + example.completion)
    sys.exit()

run, *words = sys.argv[1:]
lang = language_of("".join(words))
order = f"Write a tale with these words: {', '.join(words)}\n\n"
if lang == "zh":
    order = f"用这些词写一个故事：{'、'.join(words)}\n\n"
model, tokenizer = npgpt.GPT.from_pretrained(run), npgpt.Tokenizer.from_pretrained(run)
for seed in range(5):
    text = tokenizer.decode(answer_tokens(model, tokenizer, order, temperature=0.8, top_p=0.9, seed=seed))
    missing = [word for word in words if word not in text]
    try:
        parse(text, lang)
    except NotATaleError as error:
        print(f"try {seed + 1}: goes wrong at {error}")
        continue
    if not missing:
        print(f"{order}{text}")
        break
    print(f"try {seed + 1}: without {', '.join(missing)}")
