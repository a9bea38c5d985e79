"""Show in minutes what rules of sampling do to a model's texts: a table, and a picture, diversity-RUN.png (matplotlib).
    python examples/diversity.py runs/first              # tales, how many are right: see docs/generation.md
    python examples/diversity.py runs/plays plays.txt    # any other run: bits per byte, beside real text
Without a run it counts what tales of the grammar itself repeat.
"""

import math
import sys
from pathlib import Path

import npgpt
from npgpt.cli.tales_report import what_is_wrong
from npgpt.data.tales.corpus import TEST, TalesCorpus
from npgpt.data.text import read_text
from npgpt.generation.opening import learned, open_run
from npgpt.generation.prompts import first_prompt
from npgpt.generation.repetition import repetition
from npgpt.generation.samples import sample
from npgpt.inspection.diversity import draw

RULES = {f"temperature {t:g}": {"temperature": t} for t in (0.3, 0.6, 0.8, 1, 1.2)}
RULES |= {"top-k 10": {"top_k": 10}, "top-k 40": {"top_k": 40}, "top-p 0.9": {"top_p": 0.9}}
RULES |= {"min-p 0.1": {"min_p": 0.1}, "typical 0.9": {"typical_p": 0.9}, "eta 0.01": {"eta_cutoff": 0.01}}
RULES |= {"top-n-sigma 1": {"top_n_sigma": 1.0}, "mirostat 1": {"mirostat_tau": 1.0}, "greedy": {"temperature": 0}}
for key, x in ("repetition_penalty", 1.2), ("frequency_penalty", 0.2), ("dry_multiplier", 0.8):
    RULES[f"greedy, {key.split('_')[0]} {x}"] = {"temperature": 0, key: x}
RULES |= {"greedy, no 4 twice": {"temperature": 0, "no_repeat_ngram_size": 4}}


def show(name, texts, quality):
    """Print the figures of texts; return how many pairs of words are distinct, and the quality."""
    r = repetition(texts)
    figures = "".join(f"{value:10.3f}" for value in (*r.distinct, r.self_bleu))
    print(f"{name:24}{quality:9.3f}{figures}{r.repeated:10.1%}{r.loops:8.1%}", flush=True)
    return r.distinct[1], quality


run, file = (*sys.argv[1:3], None, None)[:2]
if run and not Path(run).is_dir():
    sys.exit(print(__doc__) if run in ("-h", "--help") else f"{run}: no such folder")
tales = run is None or learned(run).examples
quality, real, real_text = "right" if tales else "bits/byte", None, file and read_text(file)
print(f"200 texts{'':15}{quality:>9}   distinct-1        -2        -3 self-BLEU  repeated   loops")
if tales:
    real = show("real text", list(TalesCorpus(("en",), 1).texts(200, TEST)), 1.0)
if run:
    points, title, (model, tokenizer) = {}, Path(run).name, open_run(run)
    prompt = first_prompt(tokenizer, None, learned(run))
    for name, settings in RULES.items():
        found = sample(model, tokenizer, prompt, 200, npgpt.Sampling(max_new_tokens=287, **settings))
        texts = [one.text for one in found]
        bits = -sum(sum(one.logprobs) for one in found) / math.log(2) / sum(len(text.encode()) for text in texts)
        right = [not what_is_wrong(text, ("en", "zh")) for text in texts if tales]
        points[name] = show(name, texts, sum(right) / len(right) if tales else bits)
    if not tales and real_text:
        pieces = [real_text[len(real_text) * i // 201 :][: len(one)] for i, one in enumerate(texts)]
        scores = npgpt.score(model, tokenizer, pieces)
        real = show("real text", pieces, sum(s.nats for s in scores) / math.log(2) / sum(s.n_bytes for s in scores))
    label = "share of the tales that are right" if tales else "bits per byte, by the model itself"
    draw(points, title, "share of the pairs of words that are distinct", label, real).savefig(f"diversity-{title}.png")
