"""Folders of files that are named after splits and labels, and what is read from them."""

from pathlib import Path

from PIL import Image

from provfl_cli.config import schema
from provfl_cli.data.examples import Examples
from provfl_cli.data.load import load


def texts(folder: Path, **files: int) -> schema.Dataset:
    """Tables of so many rows, each named after its key; `__` stands for a folder."""
    for name, rows in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file = file.with_name(file.name + ".csv")
        file.write_text("text,label\n" + "".join(f"{name} {row},{row % 2}\n" for row in range(rows)))
    return schema.Dataset("custom", "path", path=str(folder), input="text", input_column="text", public_examples=4)


def pictures(folder: Path, *files: str) -> schema.Dataset:
    """Pictures of one grey value each."""
    for number, name in enumerate(files):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(file, file.suffix.lower().replace(".jpg", ".jpeg")[1:])
    return schema.Dataset("custom", "path", path=str(folder), image_size=8)


def sizes(dataset: schema.Dataset) -> tuple[int, int]:
    examples, _ = load(dataset, 8)
    return len(examples.train_labels), len(examples.test_labels)


def classes(*folders: str) -> list[str]:
    """Four pictures in each of these folders."""
    return [f"{folder}/{number}.png" for folder in folders for number in range(4)]


def lines(dataset: schema.Dataset) -> str:
    examples: Examples = load(dataset, 8)[0]
    return "\n".join(examples.lines)
