"""Miniature benchmarks in the real layouts: tables with the real columns, folders, rendered videos, own questions.

Three videos of four questions each; the last question about each has a wrong letter for its answer, so a model that
sees everything has 9 of 12 right.
"""

import json
from pathlib import Path

import numpy as np
from datasets import Dataset

from datamodules.needles import ask, draw_needles, render, write_video

ENDINGS = (".mp4", ".MP4", ".mkv")
TYPES = ("plotQA", "needle", "needle", "needle")  # of a video's questions, MLVU: 3 and 9 questions


def questions(folder: Path, names: list[str], seed: int = 3) -> list[dict]:
    """Render `names` into a folder; rows of video, question, options, letter (wrong for the last of each video)."""
    rows = []
    for v, name in enumerate(names):
        rng = np.random.default_rng([seed, v])
        needles = draw_needles(rng, 4, 32)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        temporary = folder / "rendered.mp4"  # the writer goes by the ending, the reader by what is inside
        write_video(temporary, render(rng, needles, 32), fps=2)
        temporary.rename(folder / name)
        for q in range(4):
            asked = ask(rng, needles, q, by_shape=q % 2 == 0, choice=True)
            letter = asked.answer if q < 3 else "ABCD"[("ABCD".index(asked.answer) + 1) % 4]
            rows.append(
                {
                    "video": v,
                    "number": q,
                    "question": asked.question,
                    "options": asked.options,
                    "letter": letter,
                }
            )
    return rows


def listed(row: dict) -> str:
    """Question with its options, "(A) ..." a line."""
    options = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", row["options"]))
    return f"{row['question']}\n{options}"


def videomme(root: Path) -> Path:
    rows = questions(root / "data", [f"v{i}{ending}" for i, ending in enumerate(ENDINGS)])
    table = [
        {
            "video_id": f"{row['video']:03d}",
            "duration": ("short", "medium", "long")[row["video"]],
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "url": "",
            "videoID": f"v{row['video']}",
            "question_id": f"{row['video']:03d}-{row['number']}",
            "task_type": "Object Recognition",
            "question": row["question"],
            "options": [f"{letter}. {option}" for letter, option in zip("ABCD", row["options"])],
            "answer": row["letter"],
        }
        for row in rows
    ]
    (root / "videomme").mkdir()
    Dataset.from_list(table).to_parquet(root / "videomme" / "test-00000-of-00001.parquet")
    return root


def mlvu(root: Path) -> Path:
    rows = questions(root, [f"{name}.mp4" for name in ("ego_1", "ego_2", "needle_3")])
    names = ("ego_1.mp4", "ego_2.mp4", "needle_3.mp4")
    table = [
        {
            "video_name": names[row["video"]],
            "question": listed(row),
            "answer": row["letter"],
            "task_type": TYPES[row["number"]],
        }
        for row in rows
    ]
    (root / "mlvu").mkdir()
    Dataset.from_list(table).to_parquet(root / "mlvu" / "test-00000-of-00001.parquet")
    return root


def lvbench(root: Path) -> Path:
    rows = questions(root / "data", [f"key{i}{ending}" for i, ending in enumerate(ENDINGS)])
    table = [
        {
            "key": f"key{row['video']}",
            "type": "cartoon",
            "video_info": {"duration_minutes": 1, "fps": 2, "resolution": {"width": 84, "height": 84}},
            "uid": f"{row['video']}{row['number']}",
            "question": listed(row),
            "answer": row["letter"],
            "question_type": ["entity recognition", "key information retrieval"],
            "time_reference": "00:00-00:16",
        }
        for row in rows
    ]
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return root


def longvideobench(root: Path) -> Path:
    """The fifth option is "N/A" everywhere."""
    rows = questions(root / "videos", [f"clip{i}.mp4" for i in range(3)])
    table = []
    for row in rows:
        options = row["options"]
        padded = {f"option{i}": options[i] if i < len(options) else "N/A" for i in range(5)}
        table.append(
            {
                "id": f"clip{row['video']}_{row['number']}",
                "video_id": f"clip{row['video']}",
                "video_path": f"clip{row['video']}.mp4",
                "question": row["question"],
                **padded,
                "correct_choice": "ABCD".index(row["letter"]),
                "subtitle_path": f"clip{row['video']}_en.json",
                "starting_timestamp_for_subtitles": 100,
                "duration": 16.0,
                "duration_group": 15,
                "question_category": ("S2E", "T2O")[row["number"] % 2],
            }
        )
    Dataset.from_list(table).to_parquet(root / "validation-00000-of-00001.parquet")
    (root / "subtitles").mkdir()
    for i in range(3):
        lines = [
            {"timestamp": [102.2, 104.9], "text": f"this is clip {i}"},
            {"timestamp": [900.0, 901.0], "text": "no"},
        ]
        (root / "subtitles" / f"clip{i}_en.json").write_text(json.dumps(lines))
    return root


BUILDERS = {"VideoMME": videomme, "MLVU": mlvu, "LVBench": lvbench, "LongVideoBench": longvideobench}


def as_its_authors_give_it(name: str, root: Path, target: Path) -> Path:
    """A miniature once more, in the layout of the data set that the benchmark's authors publish; videos are linked."""
    return AUTHORS[name](root, target)


def _linked(target: Path, video: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(video)


def _mlvu(root: Path, target: Path) -> Path:
    """`json/1_plotQA.json` ..., with candidates and the answer in words; `video/1_plotQA/`; 8 and 9 ask for texts."""
    files: dict[str, list] = {}
    for row in Dataset.from_parquet(str(root / "mlvu" / "test-00000-of-00001.parquet")):
        question, *options = row["question"].split("\n")
        candidates = [option[4:] for option in options]
        stem = {"plotQA": "1_plotQA", "needle": "2_needle"}[row["task_type"]]
        answer = candidates["ABCD".index(row["answer"])]
        about = {"video": row["video_name"], "duration": 16.0, "question_type": row["task_type"]}
        files.setdefault(stem, []).append(about | {"question": question, "candidates": candidates, "answer": answer})
        _linked(target / "video" / stem / row["video_name"], root / row["video_name"])
    files["8_sub_scene"] = [{"video": "x.mp4", "question": "Describe it.", "answer": "A scene.", "scoring_points": []}]
    (target / "json").mkdir()
    for stem, rows in files.items():
        (target / "json" / f"{stem}.json").write_text(json.dumps(rows))
    return target


def _lvbench(root: Path, target: Path) -> Path:
    """`video_info.meta.jsonl`, a video a line, its questions under `qa`."""
    videos: dict[str, dict] = {}
    for line in (root / "test.jsonl").open():
        row = json.loads(line)
        about = {name: row.pop(name) for name in ("key", "type", "video_info")}
        videos.setdefault(about["key"], {**about, "qa": []})["qa"].append(row)
    (target / "video_info.meta.jsonl").write_text("".join(json.dumps(video) + "\n" for video in videos.values()))
    for video in (root / "data").iterdir():
        _linked(target / "all_videos" / video.name, video)
    return target


def _longvideobench(root: Path, target: Path) -> Path:
    """`lvb_val.json`, options as a list under `candidates`."""
    rows = []
    for row in Dataset.from_parquet(str(root / "validation-00000-of-00001.parquet")):
        options = [row.pop(f"option{i}") for i in range(5)]
        rows.append({**row, "candidates": [option for option in options if option != "N/A"]})
    (target / "lvb_val.json").write_text(json.dumps(rows))
    for part in ("videos", "subtitles"):
        (target / part).symlink_to(root / part)
    return target


def _videomme(root: Path, target: Path) -> Path:
    """The same table; videos lie where their archives put them."""
    (target / "videomme").symlink_to(root / "videomme")
    (target / "videos_chunked_01").symlink_to(root / "data")
    return target


AUTHORS = {"MLVU": _mlvu, "LVBench": _lvbench, "LongVideoBench": _longvideobench, "VideoMME": _videomme}
