"""Download public-domain texts to train on, each checked by its checksum and kept in the cache folder. Only the text's
path goes to standard output: npgpt train --data "$(npgpt data get shakespeare)"."""

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    actions.add_parser("list", help="list the texts that can be downloaded", allow_abbrev=False)
    get = actions.add_parser("get", help="download a text, and print where it is", allow_abbrev=False)
    get.add_argument("name", metavar="NAME", help="one of npgpt data list")
    get.add_argument("--out", metavar="FILE", help="copy it to this file, and print that")
    get.add_argument(
        "--url", metavar="URL", help="download it from here, such as a mirror; the checksum stays the same"
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
    """Download a text, with a progress bar, and return its path: that of the copy if there is to be one."""
    from tqdm import tqdm

    from npgpt.data.download import fetch, find, sha256
    from npgpt.support.files import write_atomically

    text = find(name)
    if copy is not None:  # before the work
        out = Path(copy)
        if not copy or out.is_dir():
            raise ValueError(f"--out {copy}: give a file")
        if out.exists() and sha256(out.read_bytes()) != text.sha256:
            raise ValueError(f"--out {copy} already holds something else: choose another")
    with tqdm(total=text.size, unit="B", unit_scale=True, desc=name, disable=None, leave=False) as bar:
        path = fetch(name, url, lambda have: bar.update(have - bar.n))
    if copy is None:
        return path
    write_atomically(out, lambda file: file.write_bytes(path.read_bytes()))
    return out
