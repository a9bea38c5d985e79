"""Train a GPT on a string, without files or a trainer: the whole loop is ten lines. Then let it write."""

import numpy as np

import npgpt
from npgpt.data.batch import random_batch
from npgpt.optim.schedule import clip_grad_norm, learning_rate_at
from npgpt.tokenizer import CharTokenizer

TEXT = """\
白日依山尽，黄河入海流。欲穷千里目，更上一层楼。
红豆生南国，春来发几枝。愿君多采撷，此物最相思。
Tell me and I forget. Teach me and I remember. Involve me and I learn.
"""
STEPS, BATCH = 200, 8

tokenizer = CharTokenizer([TEXT])
ids = tokenizer.encode(TEXT * 4)
config = npgpt.GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=24, n_embd=48, n_layer=2, n_head=3)
model = npgpt.GPT(config, seed=0)
optimizer = npgpt.AdamW(model.params, weight_decay=0.01)
rng = np.random.default_rng(0)

for step in range(STEPS):
    loss, grads = model.loss_and_grads(random_batch(ids, BATCH, config.n_positions, rng))
    norm = clip_grad_norm(grads, max_norm=1.0)
    optimizer.step(grads, learning_rate_at(step, 1e-2, 1e-4, warmup_steps=10, max_steps=STEPS))
    if step % 40 == 0 or step == STEPS - 1:
        print(f"step {step:>3}  loss {loss:.3f} nats a character  gradient norm {norm:.2f}")

print("\nfrom 红豆 and from Teach, greedily:")
for prompt in ("红豆", "Teach"):
    tokens = npgpt.generate(model, tokenizer.encode(prompt), max_new_tokens=22, temperature=0)
    print(prompt + "".join(tokenizer.decode_stream(tokens)))
