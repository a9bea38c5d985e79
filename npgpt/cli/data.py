"""Download public-domain texts to train on. Each is verified by its checksum and kept in the cache folder. Standard
output holds the path of the text and nothing else: npgpt train --data "$(npgpt data get shakespeare)"."""

import argparse
from pathlib import Path

from npgpt.cli.checks import out_file
from npgpt.cli.parser import add_action, add_actions

EXAMPLES = (
    "npgpt data list",
    "npgpt data get shakespeare --out shakespeare.txt",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    actions = add_actions(parser)
    add_action(actions, "list", "list the texts that can be downloaded", EXAMPLES[0])
    get = add_action(actions, "get", "download a text and print its path", "npgpt data get shijing", EXAMPLES[1])
    get.add_argument("name", metavar="NAME", help="a name that npgpt data list prints")
    get.add_argument("--out", metavar="FILE", help="copy the text to this file, and print the path of the copy")
    get.add_argument(
        "--url", metavar="URL", help="download from this address, such as a mirror's; the text must be the same"
    )


def run(args: argparse.Namespace) -> int:
    if args.action == "list":
        show()
    else:
        print(get(args.name, args.out, args.url))
    return 0


def show() -> None:
    from npgpt.data.download import TEXTS

    for name, text in TEXTS.items():
        print(f"{name:<12} {text.language:<8} {text.size:>10,} bytes  {text.title}")
        print(f"{'':<12} {text.licence}; {text.url}")


def get(name: str, copy: str | None, url: str | None) -> Path:
    """Download a text with a progress bar. Return its path, or that of the copy if one is asked for."""
    from tqdm import tqdm

    from npgpt.data.download import fetch, find, sha256
    from npgpt.support.files import write_atomically

    text = find(name)
    if copy is not None:  # checked before the download
        out = out_file(copy)
        if out.exists() and sha256(out.read_bytes()) != text.sha256:
            raise ValueError(f"--out {copy} already holds something else: choose another file")
    with tqdm(total=text.size, unit="B", unit_scale=True, desc=name, disable=None, leave=False) as bar:
        path = fetch(name, url, lambda have: bar.update(have - bar.n))
    if copy is None:
        return path
    write_atomically(out, lambda file: file.write_bytes(path.read_bytes()))
    return out
