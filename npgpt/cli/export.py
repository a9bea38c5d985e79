"""Write a trained model for another program, or in a smaller form. --format safetensors is a folder that npgpt and
transformers open, gguf a file for llama.cpp and Ollama, torch-names a folder with nanoGPT's names and layout. --weights
int8 rounds the weights to integers of 8 bits with a scale for each output: a quarter of the size, and faster to sample;
such a folder opens in npgpt's sample, ask, eval and info, cannot be trained, and no other library opens it. --merge
makes a plain run folder of an adapter and its base."""

import argparse
import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.cli.checks import out_file, out_folder
from npgpt.cli.opening import add_run, find_run
from npgpt.support.files import begun, file_digest, read_json, read_sealed_json, write_atomically, write_sealed_json
from npgpt.support.notices import notice

EXAMPLES = (
    "npgpt export runs/poems --weights int8 --out runs/poems-int8",
    "npgpt export runs/tang --last --weights int8 --out 唐诗-int8",
    "npgpt export runs/poems --format safetensors --dtype bfloat16 --out runs/poems-bf16",
    "npgpt export runs/poems --format gguf --dtype q8_0 --out poems.gguf",
    "npgpt export runs/poems --format torch-names --anyway --out poems-nanogpt",
)


class Opened(NamedTuple):
    """What is exported: the run's name as it was given, its folder, model and tokenizer, and what the flags say."""

    name: str
    source: Path
    base: str | None
    model: Any
    tokenizer: Any
    dtype: str | None
    anyway: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="folder to write, which must not hold a model yet; for gguf, a file",
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--format", choices=("safetensors", "gguf", "torch-names"), help="the kind of files to write")
    kind.add_argument("--weights", choices=("int8",), help="the kind of weights to write: int8, integers of 8 bits")
    kind.add_argument("--merge", action="store_true", help="write an adapter and its base as one plain run folder")
    parser.add_argument(
        "--dtype",
        help="the precision of the weights: for safetensors float32 (default), float16 or bfloat16; for gguf f32 "
        "(default), f16 or q8_0",
    )
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="for gguf and torch-names: write also what the other program gets right only as long as you keep to what "
        "the error says",
    )
    parser.add_argument("--last", action="store_true", help="use the model of the last step, not the best one")


def run(args: argparse.Namespace) -> int:
    from npgpt.generation.opening import open_run
    from npgpt.models.registry import refuse_generator

    name = "int8" if args.weights else "merge" if args.merge else args.format
    form = FORMATS[name]
    dtype = checked_dtype(args.dtype, name, form)
    if args.anyway and not form.has_anyway:
        raise ValueError("--anyway does not apply: it belongs to --format gguf and torch-names")
    out = out_file(args.out) if form.is_file else out_folder(args.out)
    refuse(out, form)
    form.require()
    source = find_run(args)
    if args.merge and not (source / "adapter_config.json").is_file():
        raise ValueError(f"--merge: {args.run} is no adapter: it has no adapter_config.json")
    model, tokenizer = open_run(source, args.last, base=args.base)
    refuse_generator(model, args.run, "no other program reads one, so copy its folder as it is")
    opened = Opened(args.run, source, args.base, model, tokenizer, dtype, args.anyway)
    said = form.write(out, opened) if form.is_file else in_folder(out, opened, form)
    sizes = [in_bytes_of(path) for path in (weights_of(source), out if form.is_file else out / "model.safetensors")]
    print(f"{out}: {' -> '.join(filter(None, sizes))}; {said}")
    return 0


def checked_dtype(dtype: str | None, name: str, form: "Format") -> str | None:
    """Return --dtype, or the format's default. Raises ValueError for one that the format does not have."""
    if dtype is None:
        return form.dtypes[0] if form.dtypes else None
    if not form.dtypes:
        raise ValueError(f"--dtype {dtype} does not apply: it belongs to --format safetensors and gguf")
    if dtype not in form.dtypes:
        raise ValueError(f"--dtype {dtype} is not one of --format {name}, which has {', '.join(form.dtypes)}")
    return dtype


def refuse(out: Path, form: "Format") -> None:
    """Raise ValueError for an output that would replace something."""
    from npgpt.training.checkpoint import refuse_existing

    if not form.is_file:
        refuse_existing(out, resume=False)
    elif out.exists():
        raise ValueError(f"{out} is there already: choose another --out")


def in_folder(out: Path, opened: Opened, form: "Format") -> str:
    """Write a folder, all of its files or none."""
    from npgpt.hub.folders import TOKENIZER
    from npgpt.hub.peft import first_with, folders_of
    from npgpt.support.lock import locked
    from npgpt.training.checkpoint import FILES, refuse_existing

    with locked(out), begun(out, {*FILES, *TOKENIZER, "model_args.json"}):
        refuse_existing(out, resume=False)
        # of an adapter, they may be in its run or its base
        folders = folders_of(opened.source, opened.base)
        copy_files(first_with(folders, "tokenizer.json", "vocab.json"), out, TOKENIZER)
        copy_files(first_with(folders, "train.json"), out, ("train.json",))
        if len(folders) > 1:
            fit_train_json(out, opened.model)
        said = form.write(out, opened)
        if (out / "generation_config.json").exists():  # in which there may be a user's defaults
            copy_files(first_with(folders, "generation_config.json"), out, ("generation_config.json",))
    return said


def copy_files(source: Path, out: Path, names: Iterable[str]) -> None:
    """Copy files, where they are there: train.json says what a prompt begins with, and which run a model is of."""
    for name in names:
        if (source / name).is_file():
            write_atomically(out / name, functools.partial(shutil.copyfile, source / name))


def fit_train_json(out: Path, model: Any) -> None:
    """Change a copied train.json, if there is one, to the sizes and the tokenizer that an adapter has brought."""
    path = out / "train.json"
    if not path.is_file():
        return
    saved = read_sealed_json(path)
    data = saved["data"] if isinstance(saved.get("data"), dict) else {}
    found = file_digest(out / "tokenizer.json")
    if data.get("tokenizer_json") != found:  # then the fingerprint is not known to be this tokenizer's
        data = {name: value for name, value in data.items() if name != "tokenizer"} | {"tokenizer_json": found}
    changed = saved | {"data": data, "model": dataclasses.asdict(model.config)}
    if changed != saved:
        write_sealed_json(path, changed)


def write_int8(out: Path, opened: Opened) -> str:
    from npgpt.models.registry import with_weights

    made = with_weights(opened.model, "int8")
    if made is opened.model:
        raise ValueError(f"{opened.name} has such weights already: copy the folder")
    made.save_pretrained(out)
    return f"see what it costs with: npgpt eval {out} --data FILE"


def write_safetensors(out: Path, opened: Opened) -> str:
    from npgpt.models.registry import save_rounded

    model = with_floats(opened)
    rounded = None if opened.dtype == model.dtype.name else opened.dtype
    save_rounded(model, out, rounded)
    if rounded is None:
        return f"see what it writes with: npgpt sample {out}"
    return f"see what it costs with: npgpt eval {out} --data FILE"


def write_merged(out: Path, opened: Opened) -> str:
    with_floats(opened).save_pretrained(out)
    return f"see what it writes with: npgpt sample {out}"


def write_torch_names(out: Path, opened: Opened) -> str:
    from npgpt.hub.nanogpt import write_nanogpt

    model = with_floats(opened)
    write_nanogpt(out, model.config, model.params, opened.anyway)
    return "docs/exchange.md has the lines of Python that load it in nanoGPT"


def write_gguf_file(out: Path, opened: Opened) -> str:
    from npgpt.hub.gguf import require_computable, write_gguf
    from npgpt.tokenizer.llama import llama_vocabulary

    model, tokenizer = with_floats(opened), opened.tokenizer
    config = model.config
    require_computable(config)  # before what takes time
    eos = config.eos_token_id
    ends = [*(eos if isinstance(eos, list | tuple) else [eos]), tokenizer.end_id]
    ends = [i for i in dict.fromkeys(ends) if i is not None and 0 <= i < config.vocab_size]  # no text has the others
    vocabulary = llama_vocabulary(tokenizer, config.vocab_size, ends, opened.anyway)
    written = write_gguf(out, config, model.params, vocabulary, opened.dtype or "f32", opened.source.name)
    if opened.dtype == "q8_0" and "f16" in written:
        notice(
            f"{len(written['f16'])} matrices are f16, because their rows are no multiple of 32 long: "
            f"{', '.join(written['f16'][:3])}{', ...' if len(written['f16']) > 3 else ''}"
        )
    return f"run it with: llama-cli -m {out} -c {config.n_positions} -no-cnv -p TEXT"


def with_floats(opened: Opened) -> Any:
    """Return the model. Raises ValueError if its weights are integers; a notice says if they were float64."""
    from npgpt.models.registry import is_trainable

    if not is_trainable(opened.model):
        raise ValueError(f"{opened.name} has weights of 8 bits: give the run that they were made from")
    path = opened.source / "config.json"
    content = read_json(path) if path.is_file() else {}
    if "float64" in (content.get("dtype"), content.get("torch_dtype")):  # the second is its older name
        notice(f"{opened.name} has float64 weights, which are rounded to float32")
    return opened.model


def weights_of(source: Path) -> Path:
    """Return the file of a folder's weights, or that of an adapter's."""
    return next(
        (p for name in ("model", "adapter_model") if (p := source / f"{name}.safetensors").is_file()), source / "none"
    )


def in_bytes_of(path: Path) -> str:
    """Return the size of a file in words, "" if it is not there."""
    from npgpt.training.memory import in_bytes

    return in_bytes(path.stat().st_size) if path.is_file() else ""


def require_gguf() -> None:
    from npgpt.hub.gguf import require_gguf as require

    require()


class Format(NamedTuple):
    """One kind of output: what writes it and says what to do next, its dtypes (the default first), what it needs.

    has_anyway  whether --anyway has a meaning for it
    """

    write: Callable[[Path, Opened], str]
    dtypes: tuple[str, ...] = ()
    is_file: bool = False
    require: Callable[[], None] = lambda: None
    has_anyway: bool = False


FORMATS = {
    "int8": Format(write_int8),
    "merge": Format(write_merged),
    "safetensors": Format(write_safetensors, ("float32", "float16", "bfloat16")),
    "gguf": Format(write_gguf_file, ("f32", "f16", "q8_0"), is_file=True, require=require_gguf, has_anyway=True),
    "torch-names": Format(write_torch_names, has_anyway=True),
}
