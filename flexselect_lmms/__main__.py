"""Print a command for lmms-eval: `python -m flexselect_lmms MODEL [SELECTOR]`."""

import argparse
import sys
from pathlib import Path

from flexselect.families import family_of
from flexselect_lmms.arguments import identity

TASKS = Path(__file__).parent / "tasks"
TASK_NAMES = ("videomme_flexselect", "mlvu_dev_flexselect", "lvbench_flexselect", "longvideobench_val_v_flexselect")
BY_FAMILY = {
    "LLaVA-Video": ("videomme_llava_video_flexselect", TASK_NAMES[1], "lvbench_llava_video_flexselect", TASK_NAMES[3])
}


def main() -> None:
    """Print the command for a model and a selector, with the hash of their weights."""
    parser = argparse.ArgumentParser(prog="python -m flexselect_lmms", description=main.__doc__)
    parser.add_argument("model", help="folder or hub id of the VideoLLM")
    parser.add_argument(
        "selector", nargs="?", default="self", help="self, uniform, random, none, or a folder or hub id"
    )
    options = parser.parse_args()
    selector = None if options.selector == "none" else options.selector
    model_args = f"pretrained={options.model},selector={options.selector},weights={identity(options.model, selector)}"
    tasks = ",".join(BY_FAMILY.get(family_of(options.model).name, TASK_NAMES))
    sys.stdout.write(
        f"lmms-eval eval --model flexselect --model_args {model_args} \\\n"
        f"  --include_path {TASKS} --tasks {tasks} \\\n"
        "  --batch_size 1 --output_path outputs/lmms --log_samples\n"
    )


if __name__ == "__main__":
    main()
