"""Weights of 8 bits: how far they are from those that they were made from, and the model that computes with them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npgpt import GPT, GPTConfig, layers
from npgpt.cli import main
from npgpt.data.batch import Batch
from npgpt.generation.decoder import PlainDecoder, new_decoder
from npgpt.layers.int8 import dequantize, quantize
from npgpt.models.gpt2_int8 import Int8GPT, quantized_names
from npgpt.models.registry import is_trainable, open_model, with_weights
from npgpt.models.taps import Taps
from npgpt.ops import FAST, REFERENCE
from tests.test_cli import command

CONFIG = GPTConfig(vocab_size=11, n_positions=12, n_embd=8, n_layer=2, n_head=2)
IDS = np.array([[0, 6, 3, 3, 1], [2, 5, 0, 4, 10]])
BATCH = Batch(IDS, np.array([[6, 3, 3, 1, 2], [5, 0, 4, 10, -100]]))


def random_model(dtype="float32", ops="fast", **changes) -> GPT:
    model = GPT(GPTConfig(**vars(CONFIG) | changes), dtype=dtype, ops=ops)
    model.params.flat[:] = 0.5 * np.random.default_rng(4).standard_normal(model.params.flat.size)
    return model


# --- rounding


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_weight_moves_by_half_a_scale_at_most(axis, dtype):
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((70, 33)) * 10.0 ** rng.integers(-9, 9, (70, 33))).astype(dtype)
    q, scale = quantize(weight, axis)
    assert (q.dtype, scale.dtype, scale.shape) == (np.int8, dtype, ((33,), (70,))[axis])
    exact = q.astype(np.float64) * np.expand_dims(scale.astype(np.float64), axis)
    # the quotient, at most 127, is rounded to the dtype before it is rounded to an integer
    bound = np.expand_dims(scale.astype(np.float64), axis) * (0.5 + 127 * np.finfo(dtype).eps)
    assert (np.abs(exact - weight) <= bound).all()
    assert (np.abs(q.astype(int)).max(axis=axis) == 127).all(), (
        "the largest weight of an output has the largest integer"
    )
    largest = np.abs(weight).max(axis=axis)
    np.testing.assert_allclose(scale, largest / 127, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(dequantize(q, scale, axis), exact, rtol=np.finfo(dtype).eps)


def test_blocks_of_rows_make_no_difference(monkeypatch):
    weight = np.random.default_rng(1).standard_normal((9, 7))
    whole = [quantize(weight, axis)[0] for axis in (0, 1)]
    monkeypatch.setattr("npgpt.layers.int8.BLOCK", 14)
    for axis in (0, 1):
        np.testing.assert_array_equal(quantize(weight, axis)[0], whole[axis])


def test_an_output_of_zeros_stays_zero():
    q, scale = quantize(np.array([[0.0, 2.0], [-0.0, -1.0]]), axis=0)
    assert scale[0] == 0
    np.testing.assert_array_equal(dequantize(q, scale, 0)[:, 0], 0)
    assert quantize(np.zeros((2, 3), np.float32), 1)[0].tolist() == [[0] * 3] * 2


def test_integers_stay_within_bounds_where_floats_have_few_digits():
    tiny = np.float32(1e-45)  # the smallest number above 0: a scale has 1 to 3 of it, and cannot be what it should be
    for most in (1, 2, 126, 127, 128, 190, 300):
        q, scale = quantize(np.array([[most * tiny, -tiny]], np.float32), 1)
        assert np.abs(dequantize(q, scale, 1) - [[most * tiny, -tiny]]).max() <= scale[0] / 2 + 1e-50
        assert abs(int(q[0, 0])) <= 127
        assert q[0, 0] > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_that_is_no_number_is_refused(value, axis):
    weight = np.ones((3, 4), np.float32)
    weight[1, 2] = value
    with pytest.raises(ValueError, match="a weight is not a finite number"):
        quantize(weight, axis)
    model = random_model()
    model.params["h.1.mlp.c_fc.weight"][1, 2] = value
    with pytest.raises(ValueError, match=r"h\.1\.mlp\.c_fc\.weight: a weight is not a finite number"):
        Int8GPT.of(model)


# --- the product


@pytest.mark.parametrize("ops", [REFERENCE, FAST], ids=["reference", "fast"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("I", "O"), [(5, 3), (33, 70), (64, 300)])
def test_the_error_of_a_product_is_within_its_bound(ops, bias, dtype, I, O):  # noqa: E741
    rng = np.random.default_rng(I)
    x, weight = rng.standard_normal((2, 3, I)).astype(dtype), rng.standard_normal((I, O)).astype(dtype)
    b = rng.standard_normal(O).astype(dtype) if bias else None
    q, scale = quantize(weight, 0)
    found = ops.int8_linear_forward(x, q, scale, b)
    assert (found.dtype, found.shape) == (dtype, (2, 3, O))
    wide, exact = x.astype(np.float64), x.astype(np.float64) @ weight + (0 if b is None else b)
    bound = np.abs(wide).sum(axis=-1, keepdims=True) * scale / 2
    # a sum of I products, of q up to 127, rounds I + 2 times; the quotients were rounded once
    rounding = (I + 3) * np.finfo(dtype).eps * (np.abs(wide) @ np.abs(q).astype(float) * scale + np.abs(exact))
    assert (np.abs(found - exact) <= bound + rounding).all()
    # and the bound is not idle: errors are a good part of it, as those of independent numbers are
    typical = scale * np.sqrt((wide**2).sum(axis=-1, keepdims=True) / 12)
    ratio = np.sqrt((((found - exact) / typical) ** 2).mean())
    assert 0.6 < ratio < 1.4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("M", [1, 2, 7, 20])
def test_the_kernel_is_as_exact_as_the_definition(dtype, transposed, M):
    rng = np.random.default_rng(M)
    x, weight = rng.standard_normal((M, 67)).astype(dtype), rng.standard_normal((67, 141)).astype(dtype)
    q, scale = quantize(weight, 0)
    q = np.asfortranarray(q) if transposed else q
    exact = layers.int8_linear_forward(x.astype(np.float64), q, scale.astype(np.float64), scale.astype(np.float64))
    plain = layers.int8_linear_forward(x, q, scale, scale)
    fast = FAST.int8_linear_forward(x, q, scale, scale)
    error = 2 * np.linalg.norm(plain - exact) if dtype == np.float32 else 1e-13 * np.linalg.norm(exact)
    assert np.linalg.norm(fast - exact) <= error
    alone = np.concatenate([FAST.int8_linear_forward(row[None], q, scale, scale) for row in x])
    np.testing.assert_array_equal(alone, fast)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, on infinity minus infinity
def test_what_is_not_finite_stays_visible():
    x = np.array([[1.0, np.nan], [np.inf, 1.0], [1.0, 1.0]], np.float32)
    q, scale = quantize(np.ones((2, 3), np.float32), 0)
    for ops in (REFERENCE, FAST):
        found = ops.int8_linear_forward(x, q, scale, None)
        assert np.isnan(found[0]).all()
        assert np.isinf(found[1]).all()
        assert np.isfinite(found[2]).all()


# --- the model


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"bias": False}], ids=str)
def test_the_model_computes_what_a_gpt_with_the_rounded_weights_does(changes):
    for dtype, ops in (("float64", "reference"), ("float64", "fast")):
        model = random_model(dtype, ops, **changes)
        rounded = Int8GPT.of(model)
        other = GPT(model.config, dtype=dtype, ops=ops)
        for name in other.params:
            other.params[name] = rounded.floats[name]
        assert rounded.size == model.size
        np.testing.assert_allclose(rounded.forward(IDS), other.forward(IDS), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(rounded.loss(BATCH), other.loss(BATCH), rtol=1e-12)
        past = rounded.new_past(2)
        rounded.forward(IDS[:, :3], past)
        np.testing.assert_allclose(
            rounded.forward(IDS[:, 3:], past, last=True), other.forward(IDS)[:, -1:], rtol=1e-9, atol=1e-12
        )
        assert np.abs(rounded.forward(IDS) - model.forward(IDS)).max() > 1e-6
        assert rounded.tap_names() == model.tap_names()
        taps = Taps("h.1.mlp.out")
        rounded.forward(IDS, taps=taps)
        assert taps["h.1.mlp.out"].shape == (2, 5, 8)


def test_what_is_no_product_stays_as_it_was():
    model = random_model()
    rounded = Int8GPT.of(model)
    assert set(rounded.params) == set(model.params) - set(quantized_names(model.config))
    for name, array in rounded.params.items():
        np.testing.assert_array_equal(array, model.params[name])
    assert set(rounded.floats) == set(model.params)
    assert len(rounded.floats) == len(model.params)
    assert rounded.nbytes < 0.5 * model.params.flat.nbytes
    assert rounded.describe() == f"{model.describe()}, weights of 8 bits"


def test_weights_of_8_bits_are_not_trained(capsys, tmp_path, monkeypatch):
    rounded = Int8GPT.of(random_model())
    assert not is_trainable(rounded)
    assert is_trainable(random_model())
    with pytest.raises(ValueError, match="cannot be trained: train the model that they were made from"):
        rounded.loss_and_grads(BATCH)


def test_the_kind_of_weights_is_asked_for_by_name():
    model = random_model()
    rounded = with_weights(model, "int8")
    assert isinstance(rounded, Int8GPT)
    assert with_weights(rounded, "int8") is rounded
    assert with_weights(model, None) is model
    with pytest.raises(ValueError, match="weights='int9' is unknown; did you mean 'int8'"):
        with_weights(model, "int9")


# logits of order one, after some tens of roundings; the compiled decoder in float64 is compiled for this alone
@pytest.mark.parametrize(
    ("ops", "dtype", "rtol", "atol"),
    [
        ("fast", "float32", 1e-4, 1e-5),
        pytest.param("fast", "float64", 1e-9, 1e-11, marks=pytest.mark.big),
        ("reference", "float64", 1e-9, 1e-11),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "bias": False, "n_embd": 130}], ids=str)
def test_a_decoder_with_weights_of_8_bits_reads_what_the_model_reads(ops, dtype, rtol, atol, changes):
    model = random_model(dtype, ops, **changes)
    rounded = Int8GPT.of(model)
    for decoder in (new_decoder(model, 2, weights="int8"), new_decoder(rounded, 2), new_decoder(rounded, 2, 9, "int8")):
        assert isinstance(decoder, PlainDecoder) == (ops == "reference" or FAST.step is None)
        slots, ids, wanted = np.array([0, 1, 0, 1]), np.array([3, 4, 5, 6]), np.array([3, 2])
        found = decoder.read(slots, ids, wanted)
        for row, text in zip(found, ([4, 6], [3, 5]), strict=True):
            np.testing.assert_allclose(row, rounded.forward(np.array([text]))[0, -1], rtol=rtol, atol=atol)


# --- the folder


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "bias": False}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_comes_back_to_the_bit(tmp_path, dtype, changes):
    rounded = Int8GPT.of(random_model(dtype, **changes))
    rounded.save_pretrained(tmp_path)
    for other in (
        open_model(tmp_path, dtype),
        rounded.load_pretrained(tmp_path),
        open_model(tmp_path, dtype, mapped=True),
    ):
        assert isinstance(other, Int8GPT)
        assert (other.config, other.dtype) == (rounded.config, rounded.dtype)
        for part in ("params", "weights", "scales"):
            assert getattr(other, part).flat.tobytes() == getattr(rounded, part).flat.tobytes()
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["h.0.attn.c_attn.weight"].dtype == np.int8
    assert tensors["h.0.attn.c_attn.weight_scale"].shape == (24,)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "npgpt_gpt2_int8"


def test_a_gpt_does_not_open_such_a_folder_and_says_what_it_is(tmp_path):
    Int8GPT.of(random_model()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'npgpt_gpt2_int8' is not 'gpt2'"):
        GPT.from_pretrained(tmp_path)
    other = tmp_path / "other"
    random_model().save_pretrained(other)
    with pytest.raises(ValueError, match="'gpt2' is not 'npgpt_gpt2_int8'"):
        Int8GPT.from_pretrained(other)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ln_f.bias": None}, r"the tensor ln_f\.bias is missing"),
        ({"wte.weight_scale": None}, r"wte\.weight_scale is missing"),
        ({"more": np.zeros(3, np.int8)}, "more does not belong"),
        ({"wte.weight": np.zeros((11, 8), np.float32)}, r"wte\.weight has the dtype float32, expected int8"),
        ({"wpe.weight": np.zeros((12, 8), np.int8)}, r"wpe\.weight has the dtype int8, expected floats"),
        ({"wte.weight": np.zeros((10, 8), np.int8)}, r"wte\.weight has the shape \(10, 8\)"),
        ({"wte.weight_scale": np.full(11, np.nan, np.float32)}, r"wte\.weight_scale has a number that is no scale"),
        ({"wte.weight_scale": np.full(11, -1, np.float32)}, r"wte\.weight_scale has a number that is no scale"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(tmp_path, changes, match):
    Int8GPT.of(random_model()).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | changes
    save_file({name: t for name, t in tensors.items() if t is not None}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: .*" + match):
        Int8GPT.from_pretrained(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    Int8GPT.of(random_model()).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors: its checksum does not match"):
        open_model(tmp_path)


# --- the commands

TINY = "--n-layer 1 --n-head 1 --n-embd 8 --n-positions 32 --max-steps 2 --eval-batches 1 --threads 1 --sample-tokens 0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a text, a run of it, a fine-tuned run, and both of them with weights of 8 bits."""
    folder = tmp_path_factory.mktemp("int8")
    (folder / "a.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 30)
    (folder / "tasks.jsonl").write_text('{"prompt": "the", "completion": "fox"}\n' * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(f"train --data a.txt --tokenizer bpe:270 --end-token <|end|> --out r {TINY}".split()) == 0
        tune = "finetune r --data tasks.jsonl --out f --max-steps 1 --batch-size 1 --threads 1"
        assert main(tune.split()) == 0
        for run in "r", "f":
            assert main(["export", run, "--weights", "int8", "--out", f"{run}8"]) == 0
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_every_command_that_reads_a_run_reads_such_a_folder(capsys, here):
    for line in (
        "sample r8 --max-new-tokens 5",
        "eval r8 --data a.txt",
        "info r8",
        "ask f8 --prompt the --max-new-tokens 3",
    ):
        code, out, err = command(capsys, *line.split())
        assert (code, err) == (0, ""), line
        assert out


def test_info_counts_the_memory_of_such_weights(capsys, here):
    out = command(capsys, "info", "r8")[1]
    plain = command(capsys, "info", "r")[1]
    assert "weights of 8 bits" in out
    assert [line for line in out.splitlines() if "  total" in line] == [
        line for line in plain.splitlines() if "  total" in line
    ]
    assert "to train  " not in out.partition("memory in")[2].partition("floating-point")[0]


@pytest.mark.parametrize(
    "line",
    [
        "finetune f8 --data tasks.jsonl --out new",
        "profile r8 --steps 1",
        "train --resume --out r8",
        "export r8 --weights int8 --out new",
        "eval r8 --data a.txt --weights int8",
    ],
)
def test_what_needs_other_weights_is_refused_in_one_line(capsys, here, line):
    code, out, err = command(capsys, *line.split())
    assert (code, out) == (2, ""), out
    assert len(err.splitlines()) == 1
    assert "8" in err
    assert not (here / "new").exists()


def test_an_exported_folder_begins_its_texts_as_the_run_does(here):
    from npgpt.generation.opening import learned_from

    assert learned_from("r8") == learned_from("r")
    assert (here / "r8/tokenizer.json").read_bytes() == (here / "r/tokenizer.json").read_bytes()


def test_users_defaults_of_generation_are_kept(capsys, here, tmp_path):
    path = here / "r/generation_config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"temperature": 0.5}))
    assert command(capsys, "export", "r", "--weights", "int8", "--out", tmp_path / "new")[0] == 0
    assert json.loads((tmp_path / "new/generation_config.json").read_text())["temperature"] == 0.5
    path.write_text(before)


def test_an_export_never_replaces_a_model(capsys, here):
    before = (here / "r8/model.safetensors").read_bytes()
    for out in ("r8", "r"):
        code, _, err = command(capsys, "export", "r", "--weights", "int8", "--out", out)
        assert code == 2
        assert "already holds" in err
        assert "--resume" not in err  # which export does not have
    assert (here / "r8/model.safetensors").read_bytes() == before


def test_an_export_that_fails_leaves_nothing(capsys, here, monkeypatch, tmp_path):
    def full(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Int8GPT, "save_pretrained", full)
    assert command(capsys, "export", "r", "--weights", "int8", "--out", tmp_path / "new")[0] == 2
    assert not (tmp_path / "new").exists()


def test_eval_prints_both_losses(capsys, here):
    both = command(capsys, "eval", "r", "--data", "a.txt", "--weights", "int8")[1].splitlines()
    alone = command(capsys, "eval", "r8", "--data", "a.txt")[1].splitlines()
    plain = command(capsys, "eval", "r", "--data", "a.txt")[1].splitlines()
    assert both[:-1] == alone
    rounded, exact = (float(lines[0].split()[1]) for lines in (alone, plain))
    assert both[-1].startswith(f"float32     {exact:.4f} nats per token; int8 is ")
    assert both[-1].endswith("above it" if rounded > exact else ("above it", "below it"))
