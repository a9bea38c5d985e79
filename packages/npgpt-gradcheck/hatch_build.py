"""Takes the package's files from npgpt/gradcheck, so that the repository holds them once."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TakeTheRoom(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not Path(self.root, "npgpt_gradcheck").exists():  # a source distribution holds the files already
            build_data["force_include"]["../../npgpt/gradcheck"] = "npgpt_gradcheck"
