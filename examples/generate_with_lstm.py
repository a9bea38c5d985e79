"""Train an LSTM that gets a GPT's features as one vector, their mean, and see what is lost on the way.

    python examples/generate_with_lstm.py                        # a toy: spell words backwards
    python examples/generate_with_lstm.py runs/base pairs.jsonl  # from a trained GPT, on your lines

`npgpt train-generator RUN --data FILE --decoder lstm --bridge mean` does the same and keeps a run.
"""

import sys

import npgpt
from npgpt.data.examples import Example, pack_examples, read_examples
from npgpt.data.templates import FOR_GENERATORS
from npgpt.generation.answers import answers
from npgpt.models.seq import Seq2Seq

words = [a + b + c for a in "abcde" for b in "fghij" for c in "klmno"]
if len(sys.argv) > 2:
    examples = read_examples([sys.argv[2]])
    gpt, tokenizer = npgpt.GPT.from_pretrained(sys.argv[1]), npgpt.Tokenizer.from_pretrained(sys.argv[1])
else:
    examples = [Example(word, word[::-1]) for word in words]
    tokenizer = npgpt.Tokenizer.train(words, vocab_size=257)  # bytes, and the end token
    gpt = npgpt.GPT(npgpt.GPTConfig(257, 32, n_embd=32, n_layer=1, n_head=2, eos_token_id=tokenizer.end_id), seed=0)
kept, unseen = examples[len(examples) // 10 :], examples[: len(examples) // 10]
rows = pack_examples(kept, tokenizer, gpt.config.n_positions, template=FOR_GENERATORS)
model = Seq2Seq.of(gpt, decoder="lstm", bridge="mean", n_layer=1)
print(model.describe())

config = npgpt.TrainConfig(batch_size=4, seed=0)
optimizer = npgpt.AdamW(model.params, weight_decay=0.0)
for step in range(200):
    (batch,) = rows.draw(step, config)
    loss, grads = model.loss_and_grads(batch)
    optimizer.step(grads, lr=5e-3)
    if step % 100 == 99:
        print(f"step {step + 1}: loss {loss:.3f}")

found = list(answers(model, tokenizer, [example.prompt for example in unseen]))
pairs = [(text, example.completion) for text, example in zip(found, unseen, strict=True)]
print(f"{unseen[0].prompt} -> {found[0]}")
print(f"{sum(a == b for a, b in pairs)} of {len(pairs)} unseen completions are right", end=", ")
places = [one == other for pair in pairs for one, other in zip(*pair, strict=False)]
print(f"and {sum(places) / sum(len(b) for _, b in pairs):.0%} of their characters")
