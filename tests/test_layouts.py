"""Which tensor is which parameter, by names and shapes alone; and files that no one may be hurt by."""

import json
import struct
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npgpt import GPT, GPTConfig
from npgpt.hub.layouts import arrange, config_to_write, own_names, settings_of, writer_of
from npgpt.models.gpt2_parameters import parameter_shapes

CONFIG = GPTConfig(vocab_size=7, n_positions=5, n_embd=6, n_layer=2, n_head=3)
SAID = {"vocab_size": 7, "n_positions": 5, "n_embd": 6, "n_layer": 2, "n_head": 3}
NANO = {"vocab_size": 7, "block_size": 5, "n_embd": 6, "n_layer": 2, "n_head": 3, "dropout": 0.2, "bias": True}


class T(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


def tensors(prefix="", dtype="F32", **changes) -> dict[str, T]:
    named = {f"{prefix}{name}": T(dtype, shape) for name, shape in parameter_shapes(CONFIG).items()}
    return named | {name.replace("__", "."): value for name, value in changes.items()}


@pytest.mark.parametrize("prefix", ["", "transformer.", "module.transformer.", "_orig_mod.module.model."])
def test_prefixes_and_masks_are_left_out(prefix):
    found = tensors(prefix) | {f"{prefix}h.1.attn.bias": T("BOOL", (1, 1, 5, 5))}
    layout = arrange(found, CONFIG, SAID, False, parameter_shapes)
    assert layout.sources == {name: f"{prefix}{name}" for name in parameter_shapes(CONFIG)}
    assert layout.config == CONFIG


def test_two_names_of_one_parameter_are_refused():
    with pytest.raises(ValueError, match=r"wte\.weight and module\.wte\.weight are both wte\.weight"):
        own_names(["wte.weight", "module.wte.weight"])


@pytest.mark.parametrize("rows", [5, 64])
def test_the_embedding_decides_on_the_vocabulary_and_says_so(rows):
    layout = arrange(tensors(wte__weight=T("F32", (rows, 6))), CONFIG, SAID, False, parameter_shapes)
    assert layout.config.vocab_size == rows
    assert any(f"vocab_size={rows}, because the embedding has {rows} rows" in line for line in layout.notices)
    with pytest.raises(ValueError, match=r"wte\.weight has the shape"):
        arrange(tensors(wte__weight=T("F32", (rows, 6))), CONFIG, SAID, True, parameter_shapes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"blocks__0__attn__key__weight": T("F32", (6, 6))}, "does not belong"),
        ({"h__0__crossattention__c_attn__weight": T("F32", (6, 12))}, "cross-attention"),
        ({"wte__weight": T("F8_E4M3", (7, 6))}, "F8_E4M3, expected floats.*dequantize"),
        ({"wte__weight": T("I8", (7, 6))}, "int8, expected floats.*dequantize"),
        ({"wte__weight": T("I64", (7, 6))}, "has the dtype int64"),
        ({"h__0__mlp__c_fc__weight": T("F32", (24, 6))}, "has the shape"),
        ({"wpe__weight": T("F32", (1,) * 40)}, r"has the shape \(1, 1, 1, 1, 1, 1, 1, 1, 1, \.\.\.\)"),
        ({"lm_head__weight": T("F32", (9, 6))}, r"lm_head\.weight has the shape \(9, 6\)"),
    ],
)
def test_other_tensors_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        arrange(tensors(**changes), CONFIG, SAID, False, parameter_shapes)


def test_the_old_mingpt_is_named():
    with pytest.raises(ValueError, match="minGPT of before"):
        arrange({"blocks.0.attn.key.weight": T("F32", (6, 6))}, CONFIG, SAID, False, parameter_shapes)


def test_settings_of_nanogpt_and_mingpt():
    assert (writer_of(SAID), writer_of(NANO)) == ("GPT-2", "nanoGPT")
    found = settings_of(NANO)
    assert found["activation_function"] == "gelu"
    assert (found["n_positions"], found["attn_pdrop"], found["eos_token_id"]) == (5, 0.2, None)
    assert settings_of(NANO | {"vocab_size": 50304})["eos_token_id"] == 50256
    mini = {key: NANO[key] for key in ("vocab_size", "block_size", "n_embd", "n_layer", "n_head")}
    assert writer_of(mini) == "minGPT"
    assert settings_of(mini)["activation_function"] == "gelu_new"
    with pytest.raises(ValueError, match="use_rmsnorm is no setting of nanoGPT"):
        settings_of(NANO | {"use_rmsnorm": True})
    with pytest.raises(ValueError, match="n_head is missing"):
        settings_of({key: value for key, value in NANO.items() if key != "n_head"})


def test_other_names_of_settings():
    found = settings_of({"hidden_size": 6, "num_attention_heads": 3, "attn_pdrop": None})
    assert (found["n_embd"], found["n_head"], found["attn_pdrop"]) == (6, 3, 0.0)
    with pytest.raises(ValueError, match="hidden_size=6, but n_embd=8"):
        settings_of({"hidden_size": 6, "n_embd": 8})


def test_what_to_write_where_config_json_is_missing():
    text = config_to_write(tensors("transformer."))
    assert '"vocab_size": 7, "n_positions": 5, "n_embd": 6, "n_layer": 2, "n_inner": 24' in text
    assert config_to_write({"x": T("F32", (3,))}) == ""


# --- hostile files


@pytest.fixture
def saved(tmp_path):
    GPT(CONFIG, seed=1).save_pretrained(tmp_path)
    return tmp_path


def raw(path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


W = '"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ("{}", b"", 2**63),
        ("{}", b"", 2**64 - 1),
        ("{" + W + "}", b"", None),
        ("{" + W + "}", bytes(8), None),
        ("{" + W + "," + W + "}", bytes(4), None),
        ("{" + W.replace("[0, 4]", "[4, 8]") + "}", bytes(8), None),
        ("{" + W + "," + W.replace('"w"', '"v"') + "}", bytes(4), None),
        ("{" + W.replace('"w"', '"\\n\\u001b[2J"') + "}", bytes(4), None),
        ("{" + W.replace('"w"', '"' + "w" * 999 + '"') + "}", bytes(4), None),
        ("[" * 100_000, b"", None),
    ],
)
def test_a_hostile_header_is_refused_in_one_short_line(saved, header, data, length):
    raw(saved / "model.safetensors", header.encode(), data, length)
    for mapped in (False, True):
        with pytest.raises(ValueError, match=r"model\.safetensors: not ") as error:
            GPT.from_pretrained(saved, mapped=mapped)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 500 + len(str(saved))


def shard(folder) -> dict[str, str]:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    listed = {}
    for i, part in enumerate((names[:9], names[9:])):
        save_file({name: tensors[name] for name in part}, folder / f"m{i}.safetensors")
        listed |= dict.fromkeys(part, f"m{i}.safetensors")
    return listed


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"wte.weight": "../m1.safetensors"}, "no name of a safetensors file in its folder"),
        ({"wte.weight": "/etc/passwd"}, "no name of a safetensors file"),
        ({"wte.weight": 3}, "no name of a safetensors file"),
        ({"wte.weight": "m9.safetensors"}, "lists m9.safetensors, which is not there"),
        ({"wte.weight": "m0.safetensors"}, "lists wte.weight in m0.safetensors, which does not have it"),
        ({"more": "m0.safetensors"}, "lists more in m0.safetensors, which does not have it"),
        ({"wte.weight": None}, "no name of"),
        ({"wte.weight": "out.safetensors"}, "is a link that leaves the folder"),
    ],
)
def test_an_index_that_is_wrong_is_refused(saved, tmp_path_factory, change, match):
    listed = shard(saved)
    outside = tmp_path_factory.mktemp("o") / "x"
    outside.write_bytes(b"")
    (saved / "out.safetensors").symlink_to(outside)
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed | change}))
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        GPT.from_pretrained(saved)


def test_shards_are_read_and_none_may_repeat_or_hide_a_tensor(saved):
    before = GPT.from_pretrained(saved).params.flat.tobytes()
    listed = shard(saved)
    index = saved / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    assert GPT.from_pretrained(saved, mapped=True).params.flat.tobytes() == before
    index.write_text(json.dumps({"weight_map": {n: f for n, f in listed.items() if n != "wte.weight"}}))
    with pytest.raises(ValueError, match=r"does not list wte\.weight, which is in m1"):
        GPT.from_pretrained(saved)
    index.write_text(json.dumps({"weight_map": listed}))
    save_file(
        load_file(saved / "m1.safetensors") | {"h.0.ln_1.bias": np.zeros(6, np.float32)}, saved / "m1.safetensors"
    )
    with pytest.raises(ValueError, match=r"h\.0\.ln_1\.bias is in m0\.safetensors, too"):
        GPT.from_pretrained(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("own", [True, False])
def test_a_weight_that_is_not_finite_is_named(saved, own, value):
    model = GPT(CONFIG, seed=1)
    model.params["h.1.ln_2.weight"][2] = value
    model.save_pretrained(saved)
    if not own:
        save_file(load_file(saved / "model.safetensors"), saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"h\.1\.ln_2\.weight has a weight that is not a finite float32"):
        GPT.from_pretrained(saved)
    with pytest.raises(ValueError, match=r"h\.1\.ln_2\.weight has a weight that is not a finite float32"):
        GPT.from_pretrained(saved, mapped=True).verify()


def test_a_float64_that_no_float32_holds_is_named(saved):
    tensors = {name: t.astype(np.float64) for name, t in load_file(saved / "model.safetensors").items()}
    tensors["wpe.weight"][0, 0] = 1e300
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"wpe\.weight has a weight that is not a finite float32"):
        GPT.from_pretrained(saved)
    assert GPT.from_pretrained(saved, "float64").params["wpe.weight"][0, 0] == 1e300
