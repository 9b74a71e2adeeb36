"""The verbs of the command line: what each does, an example, the options that people need. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

ALL_ANSWERED, COULD_NOT_GO_ON, BAD_USAGE, SOME_FAILED = 0, 1, 2, 3  # exit status


def _classes(model: str, data: str) -> dict[str, str]:
    """Say which classes define a verb's options; Qwen2.5-VL stands for all families."""
    return {"model": model, "data": data, "family": "flexselect.families.qwen2_5_vl:Qwen25VL"}


ASKING = _classes("flexselect.options:AskingOptions", "datamodules.video_qa:VideoQADataModule")
TRAINING = _classes(
    "lightning_modules.selector_training:SelectorTraining", "datamodules.selector_training:SelectorDataModule"
)
LOCATING = _classes("flexselect.options:LoadingOptions", "datamodules.needle_clips:NeedleClips")
VIDEO = ("--data.video", "--data.question")
TABLE = ("--data.annotations", "--data.video_root")
SELECTING = ("--model.selector", "--model.budget", "--model.reference_layer", "--model.max_new_tokens", "--model.keep")
PLACE = ("--family.path", "--family.max_frames", "--model.dtype", "--model.device_map", "--trainer.devices")
SHORT = {  # options of `ask`, and what `predict` calls them
    "--model": "--config",
    "--selector": "--model.selector",
    "--budget": "--model.budget",
    "--cost": "--model.cost",
    "--max_frames": "--family.max_frames",
    "--max_new_tokens": "--model.max_new_tokens",
    "--dtype": "--model.dtype",
    "--verify": "--model.verify",
    "--absent_below": "--model.absent_below",
    "--start": "--data.start",
    "--end": "--data.end",
    "--reader": "--data.reader",
    "--engine": "--model.engine",
    "--engine_url": "--model.engine_url",
    "--moments": "--moments",
    "--report": "--report",
    "--output_dir": "--output_dir",
}
LOUDNESS = {  # options of every verb, without a value
    "--quiet": "no progress and no notes: only answers, warnings and errors",
    "--verbose": "also what libraries say, and where an error came from",
}
SHARED = {  # options that belong to no class
    "--config": ("CONFIG", "a YAML file, or the name of one that ships; give it several times, later ones count"),
    "--model": ("MODEL", "a config by name (default: qwen2_5_vl_7b), or a checkpoint: a folder, or a hub id"),
    "--output_dir": ("DIR", "folder for everything that is written"),
    "--data.root": ("DIR", "folder with the benchmark's files, as its authors lay them out"),
    "--report": ("", "also write report.html: the run on one page"),
    "--moments": ("{vtt,chapters}", "also write the moments of each answer, for video players"),
    "--writer.format": ("{jsonl,parquet}", "parquet also writes predictions.parquet at the end"),
    "--trainer.devices": ("INT", "number of GPUs or processes, which share the videos"),
    "--trainer.accelerator": ("STR", "cpu, gpu or auto"),
    "--trainer.max_steps": ("INT", "stop after so many steps"),
    "--quick": ("", "stop before the weights are loaded"),
    "--bench": ("", "also measure 64, 256 and 1,024 frames"),
    "--output": ("PATH", "file or folder for the result"),
    "--ckpt_path": ("FILE", "a checkpoint of a training"),
}


@dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    line: str  # what it does
    example: str  # the words after the program's name
    options: tuple[str, ...] = ()  # the options that people need, in order
    words: dict[str, str] = field(default_factory=dict)  # words without a name, and their meanings
    function: str = ""  # of a verb without a Trainer: returns text, or nothing; its arguments are the options
    takes: str = ""  # the class whose fields the function takes as options too
    refuses: tuple[str, ...] = ()  # fields of that class that it does not take
    classes: dict[str, str] = field(default_factory=dict)  # where --model., --data. and --family. options are defined


VERBS = {
    "demo": Verb(
        "answer questions about a rendered video with a tiny model, which is included: to try it out",
        "demo --output_dir outputs/try",
        ("--output_dir",),
    ),
    "ask": Verb(
        "ask about one video",
        'ask talk.mp4 "What is on the first slide?" --model qwen2_5_vl_7b',
        tuple(SHORT),
        {"VIDEO": "a video file", "QUESTION": "one question, or several, each in quotes"},
        classes=ASKING,
    ),
    "predict": Verb(
        "answer questions about videos",
        'predict --config qwen2_5_vl_7b --data.video talk.mp4 --data.question "What is shown first?"',
        (
            "--config",
            *VIDEO,
            "--data.reader",
            *TABLE,
            "--data.shard",
            *SELECTING,
            *PLACE,
            "--model.verify",
            "--output_dir",
            "--writer.format",
            "--report",
            "--moments",
        ),
        classes=ASKING,
    ),
    "validate": Verb(
        "answer questions and count the right answers",
        "validate --config qwen2_5_vl_7b --data.annotations questions.jsonl --data.video_root videos/",
        (
            "--config",
            *TABLE,
            "--data.limit",
            "--data.shard",
            "--data.reader",
            *SELECTING,
            *PLACE,
            "--output_dir",
            "--writer.format",
            "--report",
        ),
        classes=ASKING,
    ),
    "visualize": Verb(
        "answer, and draw which tokens were kept",
        'visualize --config demo/lite --data.video talk.mp4 --data.question "What is shown?"',
        ("--config", *VIDEO, *TABLE, *SELECTING, *PLACE, "--output_dir"),
        classes=ASKING,
    ),
    "check": Verb(
        "check machine, checkpoint, memory, numbers and speed: the first thing to run",
        "check --quick --config qwen2_5_vl_7b",
        ("--config", "--quick", "--bench", "--output", *SELECTING[:3], *PLACE[:4], "--trainer.accelerator"),
        classes=ASKING,
    ),
    "serve": Verb(
        "a web page to try a model on, and an endpoint for OpenAI's clients",
        "serve --config demo/serve",
        (
            "--config",
            "--path",
            "--selector",
            "--videos",
            "--fps",
            "--max_frames",
            "--max_new_tokens",
            "--host",
            "--port",
            "--api_key",
            "--media_root",
            "--allow_remote",
        ),
        function="flexselect.serving.serve.serve",
        takes="flexselect.options:Options",
        refuses=(
            "cost",
            "first_look_share",
            "first_look_shrink",
            "first_look_layer",
            "second_look_area",
            "second_look_gb",
        ),
    ),
    "locate": Verb(
        "find the reference layer of a model: recall of needles by layer",
        "locate --config demo/locate --data.units 256 --data.clips 24",
        ("--config", "--data.clips", "--data.units", "--data.needles", "--data.haystacks", *PLACE, "--output_dir"),
        classes=LOCATING,
    ),
    "fit": Verb(
        "train a selector",
        "fit --config selector/qwen2_5_vl_7b --data.annotations FILE --data.video_root DIR",
        (
            "--config",
            *TABLE,
            "--data.reader",
            "--model.start",
            "--model.lr",
            "--trainer.devices",
            "--trainer.max_steps",
            "--output_dir",
        ),
        classes=TRAINING,
    ),
    "export": Verb(
        "write a training checkpoint as a selector",
        "export --ckpt_path outputs/fit/checkpoints/last.ckpt --output outputs/selector",
        ("--ckpt_path", "--output", "--overwrite"),
        function="flexselect.commands.export.export",
    ),
    "experiment": Verb(
        "several validations in one table: a result with its controls",
        "experiment --config experiment/videomme_qwen2_5_vl_7b --data.root DIR --output_dir OUT",
        ("--config", "--output_dir", "--data.root"),
    ),
    "merge": Verb(
        "put the shards of a table together: what one run would have written",
        "merge OUT/1 OUT/2 OUT/3 --output_dir OUT/all",
        ("--output_dir",),
        {"DIR": "output folders of all shards: of predict, validate or teacher scoring with --data.shard"},
    ),
    "compare": Verb(
        "two runs side by side, with McNemar's exact test",
        "compare OUT/self OUT/dense",
        ("--flips",),
        {"ONE": "folder of a run that `validate` wrote", "OTHER": "folder of another one, over the same questions"},
        function="flexselect.evaluation.comparison.compare",
    ),
    "completion": Verb(
        "print a script that completes verbs and options in a shell",
        "completion bash",
        words={"SHELL": 'bash or zsh: put `eval "$(flexselect completion bash)"` into ~/.bashrc (~/.zshrc); tcsh'},
        function="flexselect.commands.completion.completion",
    ),
    "convert": Verb(
        "rewrite a checkpoint from its authors' layout to Hugging Face's",
        "convert --input LLaVA-Video-7B-Qwen2 --output LLaVA-Video-7B-hf",
        ("--input", "--output"),
        function="flexselect.commands.convert.convert",
    ),
}
