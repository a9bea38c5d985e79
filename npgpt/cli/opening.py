"""RUN: its help, which is the same in all commands, and the folder that it stands for."""

import argparse
from pathlib import Path

RUN = "a run folder, or NAME or NAME@REVISION of a GPT-2 on the Hugging Face hub, such as openai-community/gpt2"


def add_run(parser: argparse.ArgumentParser, optional: bool = False, base: bool = True) -> None:
    """Add RUN, what a command opens, and --base."""
    parser.add_argument("run", nargs="?" if optional else None, metavar="RUN", help=RUN)
    if not base:
        return
    parser.add_argument(
        "--base",
        metavar="RUN",
        help="if RUN is an adapter: the model that it adapts (default: the one that its adapter_config.json names)",
    )


def find_run(args: argparse.Namespace) -> Path:
    """Find the folder of args.run, or download it, and keep it as args.folder; args.run stays what the user wrote."""
    from npgpt.hub.folders import find_folder

    args.folder = find_folder(args.run)
    return args.folder
