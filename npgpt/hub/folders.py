"""The folder that a name stands for: one that is here, or a model of the Hugging Face hub."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from npgpt.hub.seeming import FORMATS, PICKLES, shown
from npgpt.support.hints import nearest
from npgpt.support.notices import notice

# what npgpt reads of a model: no pickle, no weights of other precisions, no files of other libraries
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja"),
    *("added_tokens.json", "special_tokens_map.json"),
)
FILES = (
    *("config.json", "generation_config.json", "train.json", "model.safetensors", "model.safetensors.index.json"),
    *("model-?????-of-?????.safetensors", "adapter_config.json", "adapter_model.safetensors"),
    *TOKENIZER,
)
TIMEOUT = 10  # seconds within which a hub must answer
NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")
LOG_IN = "log in with hf auth login, or set HF_TOKEN"


def find_folder(name: str | Path, files: Sequence[str] = FILES) -> Path:
    """Return the folder of that name, or download the hub's model of that name into huggingface_hub's cache.

    name   a folder, or NAME or NAME@REVISION, such as openai-community/gpt2; a revision is a branch, a tag or a commit
    files  what is needed of a model on the hub

    The cache, the endpoint, the token and whether to stay offline are those of huggingface_hub (HF_HOME, HF_ENDPOINT,
    HF_TOKEN, HF_HUB_OFFLINE). What the cache has of a commit is not downloaded again; if the hub does not answer, what
    the cache has is taken, and a notice says so. Raises FileNotFoundError, with what to do, for what is in neither
    place.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        what = next((what for end, what in FORMATS.items() if folder.name.endswith(end)), "")
        raise FileNotFoundError(f"{name} is a file, not a folder{f': {what}' if what else ''}")
    named = NAME.fullmatch(str(name))
    if not named:
        raise FileNotFoundError(f"{name}: no such folder")
    if "/" in named[1] and folder.parent.is_dir():  # who mistypes a path does not mean the hub
        beside = sorted(str(path) for path in folder.parent.iterdir() if path.is_dir())
        raise FileNotFoundError(f"{name}: no such folder{nearest(str(folder), beside)}")
    try:
        import huggingface_hub  # noqa: F401, to see whether it is there
    except ImportError:
        raise FileNotFoundError(
            f"{name}: no such folder; to look for it on the Hugging Face hub, install npgpt[hub]"
        ) from None
    return _downloaded(str(name), named[1], named[2], files)


def _downloaded(name: str, repository: str, revision: str | None, files: Sequence[str]) -> Path:
    """Return the snapshot of a repository in huggingface_hub's cache. Raises FileNotFoundError for any failure."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        silent = _silent(repository, revision)
        found = snapshot_download(
            repository, revision=revision, allow_patterns=list(files), local_files_only=silent is not None
        )
        folder = Path(found)
    except Exception as error:  # errors of the library, of its transport and of the disk, of many kinds
        raise FileNotFoundError(f"{name}: no such folder, and {_reason(error, repository, revision)}") from None
    if silent:
        notice(f"{name}: the copy in the cache is taken, because {silent}")
    if files is FILES and not any(folder.glob("*.safetensors")):
        instead = _instead(repository, revision)
        raise FileNotFoundError(f"{name}, on the Hugging Face hub, has no weights in safetensors{instead}")
    return folder


def _silent(repository: str, revision: str | None) -> str | None:
    """Return why the hub cannot be asked, "" if nobody wants to know; None if it answers. Raises what it answers."""
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return ""
    try:
        HfApi().model_info(repository, revision=revision, timeout=TIMEOUT)
    except (errors.HfHubHTTPError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except Exception:  # of the transport, which differs between versions of the library
        return f"{constants.ENDPOINT} does not answer"
    return None


def _instead(repository: str, revision: str | None) -> str:
    """Return what a repository has in place of safetensors, and what to do; "" if the hub cannot be asked."""
    from huggingface_hub import list_repo_files

    try:
        names = list_repo_files(repository, revision=revision)
    except Exception:  # there is no answer, and the error that this belongs to says enough
        return ""
    other = next((name for name in names if name in PICKLES or name.endswith(tuple(FORMATS))), None)
    if other is None:
        return ""
    what = f"{shown(other)}, a pickle, which npgpt never opens" if other in PICKLES else shown(other)
    convert = f"AutoModelForCausalLM.from_pretrained({repository!r}).save_pretrained(FOLDER)"
    return f", but {what}: transformers may convert it, by {convert} in Python"


def _reason(error: Exception, repository: str, revision: str | None) -> str:
    """Return why a download has failed, and what to do."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return f"{repository} on the Hugging Face hub is gated: ask for access on its page, and {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hugging Face hub has no such model, or it is private: for a private one {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} on the Hugging Face hub has no revision {revision or 'main'}"
    if constants.HF_HUB_OFFLINE:
        return "not in the cache of the Hugging Face hub, which HF_HUB_OFFLINE forbids to ask"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"not in the cache of the Hugging Face hub, and {constants.ENDPOINT} cannot be reached"
    lines = str(error).strip().splitlines()
    return f"it could not be downloaded from the Hugging Face hub: {shown(lines[0] if lines else type(error).__name__)}"


def recorded(name: str | Path) -> str:
    """Return what a run records of a model that it began with: a folder's whole path, or a name with its commit.

    Example: "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e", by which a later download is the same.
    """
    folder = find_folder(name)
    if Path(name).is_dir():
        return str(Path(name).resolve())
    return f"{str(name).partition('@')[0]}@{folder.name}"  # huggingface_hub's snapshots are named by their commits
