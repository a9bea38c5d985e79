"""Show what each rule of sampling does to a model's texts: a table of figures, and a picture, diversity.png.

    npgpt train --out runs/first                        # English tales, in three minutes
    python examples/diversity.py runs/first             # docs/generation.md shows what it prints
    python examples/diversity.py runs/plays real.txt    # a run on text of your own, beside real text

Needs matplotlib for the picture. Without a run it counts the words and repetitions of some tales.
"""

import sys
from pathlib import Path

import npgpt
from npgpt.cli.tales_report import what_is_wrong
from npgpt.generation.opening import learned_documents, learned_examples, open_run
from npgpt.generation.prompts import first_prompt
from npgpt.generation.repetition import repetition
from npgpt.generation.samples import sample

N, TOKENS = 100, 287
RULES = {
    "greedy": {"temperature": 0},
    "temperature 0.3": {"temperature": 0.3},
    "temperature 0.6": {"temperature": 0.6},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 1": {},
    "temperature 1.2": {"temperature": 1.2},
    "top-k 10": {"top_k": 10},
    "top-k 40": {"top_k": 40},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.1": {"min_p": 0.1},
    "typical 0.9": {"typical_p": 0.9},
    "eta 0.01": {"eta_cutoff": 0.01},
    "top-n-sigma 1": {"top_n_sigma": 1.0},
    "mirostat 1": {"mirostat_tau": 1.0},
    "greedy, repetition 1.2": {"temperature": 0, "repetition_penalty": 1.2},
    "greedy, frequency 0.2": {"temperature": 0, "frequency_penalty": 0.2},
    "greedy, DRY 0.8": {"temperature": 0, "dry_multiplier": 0.8},
    "greedy, no 4-gram twice": {"temperature": 0, "no_repeat_ngram_size": 4},
}
