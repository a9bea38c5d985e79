"""Train blocks of a Transformer to write from a GPT's features, and let them write: greedily, by draws, by beams.

    python examples/generate_with_transformer.py                        # a toy: spell words backwards
    python examples/generate_with_transformer.py runs/base pairs.jsonl  # from a trained GPT, on your lines

`npgpt train-generator RUN --data FILE --decoder transformer` does the same and keeps a run.
"""

import sys

import npgpt
from npgpt.data.examples import Example, pack_examples, read_examples
from npgpt.data.templates import FOR_GENERATORS
from npgpt.generation.answers import answers
from npgpt.generation.prompts import answer_prompt
from npgpt.generation.search.beams import Beams, beam_search
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
model = Seq2Seq.of(gpt, decoder="transformer", bridge="attention", n_layer=1)
print(model.describe())

config = npgpt.TrainConfig(batch_size=4, seed=0)
optimizer = npgpt.AdamW(model.params, weight_decay=0.0)
for step in range(300):
    (batch,) = rows.draw(step, config)
    loss, grads = model.loss_and_grads(batch)
    optimizer.step(grads, lr=5e-3)
    if step % 100 == 99:
        print(f"step {step + 1}: loss {loss:.3f}")

prompts = [example.prompt for example in unseen]
for temperature in 0.0, 1.0:  # the likeliest token each time, or a draw
    found = list(answers(model, tokenizer, prompts, temperature))
    right = sum(text == example.completion for text, example in zip(found, unseen, strict=True))
    print(f"at temperature {temperature}: {prompts[0]} -> {found[0]}; {right} of {len(unseen)} are right")
generator = npgpt.Generator(model, tokenizer, slots=3)
for beam in beam_search(generator, answer_prompt(model, tokenizer, prompts[0]), Beams(num_beams=3, n=3)):
    print(f"beam: {beam.text}  ({beam.score:.2f})")
