"""Measure how well a model predicts a text: mean loss in nats a token, perplexity, and bits a byte, over the whole
file. Bits a byte compare between tokenizers."""

import argparse
import math


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--data", required=True, metavar="FILE", help="a UTF-8 text file")
    parser.add_argument("--last", action="store_true", help="the model of the last step, not the best one")


def run(args: argparse.Namespace) -> int:
    from npgpt.cli.sample import open_run
    from npgpt.data import read_text
    from npgpt.evaluate import whole_loss

    model, tokenizer = open_run(args.run, args.last)
    text = read_text(args.data)
    try:
        ids = tokenizer.encode(text)
    except ValueError as error:
        raise ValueError(f"{args.data}: {error}") from None
    loss = whole_loss(model, ids)
    # the first token is not predicted, so its bytes do not count either
    predicted = len(ids) - 1
    predicted_bytes = len(tokenizer.decode_bytes(ids[1:]))
    print(f"loss        {loss:.4f} nats a token")
    print(f"perplexity  {math.exp(loss):.4g}" if loss < 700 else "perplexity  inf")
    print(f"bits/byte   {loss * predicted / math.log(2) / predicted_bytes:.4f}")
    print(f"tokens      {predicted:,} ({predicted_bytes:,} bytes)")
    return 0
