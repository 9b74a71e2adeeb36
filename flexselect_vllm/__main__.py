"""Write the folder that vLLM serves, and print the command: `python -m flexselect_vllm MODEL FOLDER`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from flexselect.families import family_of
from flexselect_vllm.folder import served_name, write_engine_folder
from flexselect_vllm.prompt import ARGUMENTS


def main() -> None:
    """Write the folder; print the command."""
    parser = argparse.ArgumentParser(prog="python -m flexselect_vllm", description=__doc__)
    parser.add_argument("model", help="folder or hub id of the VideoLLM")
    parser.add_argument("folder", type=Path, help="folder to write: a configuration, and links to the weights")
    options = parser.parse_args()
    try:
        family = family_of(options.model)
        write_engine_folder(family, options.folder)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    sys.stdout.write(serve_command(options.folder, served_name(family)) + "\n")


def serve_command(folder: Path, name: str) -> str:
    """Return the command that serves a folder under a name."""
    lines = [f"vllm serve {shlex.quote(str(folder))} --served-model-name {name}"]
    for argument, value in ARGUMENTS.items():
        flag = "--" + argument.replace("_", "-")
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(flag if value is True else f"{flag} {shlex.quote(text)}")
    return " \\\n  ".join(lines)


if __name__ == "__main__":
    main()
