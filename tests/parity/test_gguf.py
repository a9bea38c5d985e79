"""GGUF files run by llama.cpp: the same ids, the same probabilities and the same texts as npgpt's."""

import json
import random
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest

import npgpt
from npgpt import GPT, GPTConfig, Tokenizer
from npgpt.cli import main
from npgpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer

pytest.importorskip("gguf", reason="gguf is not installed; the parity tests need npgpt[gguf]")
xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; the parity tests need npgpt[parity]")

TEXT = "the cat sat on the mat, and it's the hat. 床前明月光\n疑是地上霜 12345 é e\u0301 👩\u200d💻\r\n  x " * 9
SPECIALS = ("<|endoftext|>", "<|user|>")
# what random texts are made of: what patterns cut differently, and what tokenizers get wrong
PIECES = [
    *("the", "cat", " sat", "'s", "'LL", "'", "12345", "٣٤", "½", "²", " ", "  ", "\n", "\r\n", "\r", "\t", "\n\n \n"),
    *(
        "中文",
        "床前明月光",
        "。",
        "、",
        "é",
        "e\u0301",
        "\u0301",
        "👩\u200d💻",
        "🇩🇪",
        "\u200b",
        "\u00a0",
        "\u3000",
        "\ufeff",
    ),
    *(
        "\x00",
        "\x1c",
        "\x85",
        "\u2028",
        "!?",
        "...",
        "ß",
        "ſ",
        "ﬁ",
        "عربي",
        "हिन्दी",
        "한국어",
        "<|endoftext|>",
        "<|user|>",
    ),
    *("<|endof", "user|>", "<", "|", "\U0001f9d1\U0001f3fd", "\U0010ffff", "\ue000", "Ġ", "ä", "ÿ"),
]
FEW, ALL = 150, 1500


class Llama:
    """A model that llama.cpp serves on a port of this machine, with keys and values in float32."""

    def __init__(self, path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.warmup, params.fit_params, params.verbosity = 0, 1, False, False, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            params.port = free.getsockname()[1]
        self.server = xllamacpp.Server(params)

    def ask(self, path, **body):
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def ids(self, text, special=False):
        return self.ask("/tokenize", content=text, add_special=False, parse_special=special)["tokens"]

    def logprobs(self, ids, size, shown):
        """Return the log-probabilities of the token after ids; `shown` is one that it may write, whatever they are."""
        body = {"n_predict": 1, "n_probs": size, "temperature": 0, "samplers": [], "cache_prompt": False}
        answer = self.ask("/completion", prompt=[int(i) for i in ids], logit_bias=[[shown, 1e6]], **body)
        found = np.full(size, np.nan)
        for token in answer["completion_probabilities"][0]["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def write(self, ids, n):
        """Return what it writes after ids, as ids."""
        body = {"n_predict": n, "samplers": ["top_k"], "top_k": 1, "return_tokens": True, "cache_prompt": False}
        return self.ask("/completion", prompt=[int(i) for i in ids], **body)["tokens"]


def make_model(vocab_size, **changes):
    """Return a model whose logits are of order ten, so that an error is seen."""
    sizes = {"n_positions": 64, "n_embd": 96, "n_layer": 2, "n_head": 3, "vocab_size": vocab_size, "eos_token_id": None}
    model = GPT(GPTConfig(**sizes | changes))
    rng = np.random.default_rng(0)
    for name, param in model.params.items():
        scale = 0.3 if name in ("wte.weight", "wpe.weight", "lm_head.weight") else 0.15
        centre = 1.0 if param.ndim == 1 and name.endswith("weight") else 0.0
        model.params[name] = centre + scale * rng.standard_normal(param.shape)
    return model


def serve(model, tokenizer, folder, dtype="f32"):
    model.save_pretrained(folder / "r")
    tokenizer.save_pretrained(folder / "r")
    out = folder / "m.gguf"
    assert main(["export", str(folder / "r"), "--format", "gguf", "--dtype", dtype, "--anyway", "--out", str(out)]) == 0
    return Llama(out)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


# llama.cpp looks GELU up in a table of half precision, with 11 bits: some 5e-4 of a value of order one, in each block.
# f16 rounds weights and what they are multiplied with to the same 11 bits; q8_0 both to a 127th of the largest of 32
TOLERANCES = {"f32": 5e-3, "f16": 5e-2, "q8_0": 1.0}
MODELS = [
    {},
    {"bias": False, "n_head": 1, "n_inner": 70},
    {"tie_word_embeddings": False, "n_head": 8, "n_inner": 101, "n_layer": 3, "layer_norm_epsilon": 1e-3},
    {"n_head": 12, "n_embd": 36, "tie_word_embeddings": False, "bias": False},
]


@pytest.mark.parametrize("changes", MODELS, ids=lambda changes: ",".join(changes) or "plain")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.big)])
def test_the_next_token_has_the_same_probabilities(tmp_path, dtype, changes, step):
    tokenizer = ByteTokenizer()
    model = make_model(260, **changes)
    llama = serve(model, tokenizer, tmp_path, dtype)
    ids = np.random.default_rng(1).integers(0, 256, 40)
    logits = model.logits(ids[None])[0]
    assert 5 < np.abs(logits).max() < 50
    expected = log_softmax(logits)
    errors = [np.abs(llama.logprobs(ids[: i + 1], 260, 97) - expected[i]).max() for i in range(0, 40, step)]
    print(f"{dtype}: {max(errors):.2g} over {len(errors)} positions")
    assert max(errors) < TOLERANCES[dtype]  # and no token is missing: it would be NaN


def random_texts(n):
    rng = random.Random(7)
    for _ in range(n):
        yield "".join(
            rng.choice(PIECES)
            if rng.random() < 0.8
            else chr(rng.choice((rng.randrange(1, 0x3000), 0x4E00 + rng.randrange(9999))))
            for _ in range(rng.randrange(24))
        )


@pytest.mark.parametrize("n", [FEW, pytest.param(ALL, marks=pytest.mark.big)])
@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_random_texts_have_the_same_ids(tmp_path, pattern, n):
    tokenizer = Tokenizer.train(
        [TEXT, "x".join(random_texts(300)) + "x"], 600, pattern=pattern, special_tokens=SPECIALS
    )
    vocabulary = tokenizer.vocabulary
    names = {"<tag>": tokenizer.vocab_size, "中": tokenizer.vocab_size + 1}
    tokens = [*vocabulary.tokens, *(name.encode() for name in names)]
    tokenizer = BPETokenizer(*vocabulary._replace(tokens=tokens, added_tokens=names))
    llama = serve(make_model(tokenizer.vocab_size + 3, eos_token_id=tokenizer.end_id), tokenizer, tmp_path)
    for text in [*random_texts(n), "", "a\n  ", " \n \n  ", "x<tag>y<|user|>", "'ſat 'Sat 'ſ "]:
        assert llama.ids(text) == tokenizer.encode(text).tolist(), repr(text)
        assert llama.ids(text, special=True) == tokenizer.encode(text, "all").tolist(), repr(text)


@pytest.mark.parametrize("kind", ["bytes", "chars"])
def test_bytes_and_characters_have_the_same_ids(tmp_path, kind):
    texts = [*random_texts(FEW), "", "[PAD258][]PAD0123456789"]
    tokenizer = ByteTokenizer() if kind == "bytes" else CharTokenizer(texts)
    texts.append(f"[PAD{tokenizer.vocab_size}]")  # the name of a token that no text has
    llama = serve(make_model(tokenizer.vocab_size + 3), tokenizer, tmp_path)
    for text in texts:
        assert llama.ids(text) == tokenizer.encode(text).tolist(), repr(text)


def test_an_unknown_character_is_refused_where_all_known_ones_are_ascii(tmp_path):
    tokenizer = CharTokenizer(["the cat"])
    assert not [c for c in tokenizer.characters if not c.isascii()]  # others need --anyway: llama.cpp would hang
    llama = serve(make_model(tokenizer.vocab_size), tokenizer, tmp_path)
    for text in ("床", "the dog", "é"):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            llama.ask("/completion", prompt=text, n_predict=1)


@pytest.mark.parametrize("kind", ["bytes", "chars", "gpt2", "gpt4"])
def test_it_writes_the_same_text_and_ends_where_npgpt_does(tmp_path, kind):
    chars = {"bytes": ByteTokenizer, "chars": lambda: CharTokenizer([TEXT])}
    tokenizer = chars[kind]() if kind in chars else Tokenizer.train([TEXT], 300, pattern=kind)
    model = make_model(tokenizer.vocab_size, eos_token_id=tokenizer.end_id)
    llama = serve(model, tokenizer, tmp_path)
    for prompt in ("the", " cat", "床前"):
        ids = tokenizer.encode(prompt)
        expected = [int(i) for i in npgpt.generate(model, ids, max_new_tokens=40, temperature=0)]
        found = llama.write(ids, 40)
        assert found == expected
        assert len(found) == 40 or found[-1] == tokenizer.end_id
        if kind == "chars":
            assert all(character in TEXT for character in tokenizer.decode(found))
