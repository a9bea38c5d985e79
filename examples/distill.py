"""Make a GPT lighter: train a teacher on a string, then teach what it knows to a student with half of its blocks."""

import numpy as np

import npgpt
from npgpt.data.batch import Batch, random_batch
from npgpt.models.distilled import Distilled, Teaching
from npgpt.models.gpt2_shrunk import shrunk, student_config
from npgpt.optim.schedule import clip_grad_norm, learning_rate_at
from npgpt.tokenizer import CharTokenizer

TEXT = """\
白日依山尽，黄河入海流。欲穷千里目，更上一层楼。
红豆生南国，春来发几枝。愿君多采撷，此物最相思。
Tell me and I forget. Teach me and I remember. Involve me and I learn.
"""
BATCH, T = 8, 24

tokenizer = CharTokenizer([TEXT])
ids = tokenizer.encode(TEXT * 4)


def train(model, steps, rate=1e-2):
    """Train a GPT, or a student with its teacher, and return the model."""
    optimizer, rng = npgpt.AdamW(model.params, weight_decay=0.01), np.random.default_rng(0)
    for step in range(steps):
        _, grads = model.loss_and_grads(random_batch(ids, BATCH, T, rng))
        clip_grad_norm(grads, max_norm=1.0)
        optimizer.step(grads, learning_rate_at(step, rate, 1e-4, warmup_steps=5, max_steps=steps))
    return model


def report(name, model):
    """Print how large a model is, and how well it predicts the text."""
    loss = model.loss(Batch(ids[None, :T], ids[None, 1 : T + 1]))
    print(f"{name:<22} {model.size:>7,} parameters  loss {loss:.3f} nats a character")


config = npgpt.GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=T, n_embd=48, n_layer=4, n_head=3)
teacher = train(npgpt.GPT(config, seed=0), steps=150)
report("teacher", teacher)

half = student_config(config, n_layer=2)
student = shrunk(teacher, half, seed=1)
report("student, untaught", student)
taught = Distilled(student, teacher, Teaching(temperature=1.0, ce=0.3, kl=0.7, cosine=0.1))
train(taught, steps=40, rate=5e-3)
report("student, taught", student)
report("the same from scratch", train(npgpt.GPT(half, seed=1), steps=40, rate=5e-3))

print("\nfrom 红豆, greedily, by the student:")
print("红豆" + "".join(tokenizer.decode_stream(npgpt.generate(student, tokenizer.encode("红豆"), 22, temperature=0))))
