"""Inputs whose predictions are to be traced after a run: those that it traced, others of its test set, or new ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from PIL import Image
from torch import Tensor

from ..bounded import TOKENIZER_BYTES, Oversized, read_text
from ..bounded_tables import GIVEN, check_dataset
from ..config.schema import Dataset
from ..data.decode import decode
from ..data.federated import Form, Pictures, Source, TestData, Texts
from ..data.folder import PICTURES
from ..data.labels import Classes
from ..data.likeness import Look, unlike
from ..data.listing import listed
from ..data.network import without_network
from ..data.numbering import asked
from ..data.picture_facts import PictureFacts
from ..data.picture_paths import Places
from ..data.split import Split
from ..data.splits import from_table, joined
from ..data.tables import FORMATS, column_names, input_columns, read_table
from ..data.tensors import to_tensor
from ..data.tokenizer import from_json
from ..errors import InputError, RunError
from ..provenance.outputs import Inputs as NamedInputs
from ..results.checksums import TOKENIZER
from ..results.columns import checked, run_table
from ..results.wrong import WrongContent
from .rebuild import NOT_TRACED, data_again

TEST_SET = "the run's test set is asked for"
UNKNOWN = -1  # stands for a true label, or an index in the test set, that nobody gave


@dataclass(frozen=True)
class TracedInputs:
    """Inputs to trace.

    Attributes:
        inputs: `[n, …]`, as the model reads them; or such tensors by argument name.
        numbers: int64 `[n]`, indices in the test set; of new inputs, which number they have among these.
        labels: int64 `[n]`, true labels, `UNKNOWN` where nobody gave one.
        shown: what people see: pixels uint8 `[height, width, channels]`, a text, or None.
        names: what each is called.
        chosen: whether it was chosen here, since the user named none.
        new: whether they are the user's own.
        warnings: what has to be read before their rankings.
        notes: sentences for the user, on how it was read.
        wanted: float64 `[n, numbers]`, what a model without classes should put out; None: it tells classes apart, or
            nobody knows.
    """

    inputs: NamedInputs
    numbers: np.ndarray
    labels: np.ndarray
    shown: tuple[np.ndarray | str | None, ...]
    names: tuple[str, ...]
    chosen: bool = False
    new: bool = False
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    wanted: np.ndarray | None = None


class Inputs(Protocol):
    """Where the inputs of an opened federation come from."""

    def first(self, number: int) -> TracedInputs:
        """The input that is taken for round `number` where the user names none."""

    def numbered(self, index: int) -> TracedInputs:
        """The input with that index in the test set."""

    def picture(self, file: Path) -> TracedInputs:
        """A picture of the user's."""

    def text(self, text: str) -> TracedInputs:
        """A text of the user's."""

    def many(self, path: Path) -> TracedInputs:
        """All inputs of a table, or of a folder of pictures."""

    def at_hand(self, number: int) -> NamedInputs | None:
        """All that are at hand without the data set, for who looks at the clients of round `number`; None: none are."""


@dataclass(frozen=True)
class RunInputs:
    """Inputs of a run: what it traced is read back from its folder; only for other ones is the dataset loaded.

    Attributes:
        folder: of the run.
        dataset: its settings of the data.
        read_test_set: reads what predictions of the run were traced of, where its data are now.
        form: what its model reads.
        label_names: of the classes.
        fingerprint: of the data.
        pictures: how they were read, and what they look like.
        indexed: as `labels.Classes` has it.
        data: where the user says that the dataset is now.
    """

    folder: Path
    dataset: Dataset
    read_test_set: Callable[[Dataset], tuple[TestData, Source]]
    form: Form
    label_names: tuple[str, ...]
    fingerprint: str
    pictures: PictureFacts = field(default_factory=PictureFacts)
    indexed: bool | None = None
    data: str | None = None

    @property
    def classes(self) -> Classes:
        """The run's labels, to look others up."""
        return Classes(self.label_names, self.indexed)

    def encode(self, shown: np.ndarray) -> Tensor:
        """Pixels or texts, as the run's model reads them."""
        if isinstance(self.form, Texts):
            return self._tokens(self.form, shown)
        return to_tensor(shown, mean=self.dataset.mean, std=self.dataset.std)

    def _tokens(self, form: Texts, texts: np.ndarray) -> Tensor:
        """What the run's tokenizer makes of texts; RunError where it is none, or not that of the run's model."""
        file = self.folder / TOKENIZER
        try:
            tokens = from_json(read_text(file, TOKENIZER_BYTES))(texts)
        except ValueError as error:
            raise RunError(f"{file} cannot be read: {error}") from error
        except OSError as error:
            raise RunError(f"{error.filename}: {error.strerror}: what turns texts into tokens is gone") from error
        except Exception as error:  # of the library, of a file that it does not understand
            raise RunError(f"{file} cannot be read: it is no tokenizer of a run") from error
        width, largest = tokens.shape[1], int(tokens.max()) if tokens.numel() else 0
        if not 0 < width <= form.max_tokens or largest >= form.vocabulary:
            raise RunError(
                f"{file} is not the tokenizer of the run's model: it makes texts of {width} tokens up to number "
                f"{largest:,}, the model reads 1 to {form.max_tokens:,} of {form.vocabulary:,}"
            )
        return tokens

    def first(self, number: int) -> TracedInputs:
        """The first input that the run traced of that round, or of any."""
        traced = self._traced()
        if not len(traced):
            raise InputError(f"{self.folder}: the run has traced nothing: give --input INDEX of its test set")
        of_round = np.flatnonzero(traced["round"] == number)
        return self._of_rows([self._row(int(of_round[0]) if len(of_round) else 0)], chosen=True)

    def numbered(self, index: int) -> TracedInputs:
        """From `inputs.parquet` where the run traced it, else from the dataset, which takes longer."""
        rows = np.flatnonzero(self._traced()["input"] == index)
        if len(rows):
            return self._of_rows([self._row(int(rows[0]))])
        test, position = self.tested(index)
        chosen = slice(position, position + 1)
        shown = tuple(test.shown[chosen])
        return TracedInputs(
            test.inputs[chosen], np.array([index]), test.labels.numpy()[chosen], shown, (f"input {index}",)
        )

    def tested(self, index: int) -> tuple[TestData, int]:
        """The run's test set, read again, and the position of the input of that number.

        Raises:
            InputError: the dataset is not at hand, not what it was, or has no such input.
        """
        why = f"--input {index}: the run has not traced it"
        test = self._test_set(NOT_TRACED, why, ": give one that it traced (inputs.parquet), or")
        positions = np.flatnonzero(test.indices == index).tolist()
        if not positions:
            lowest, highest = int(test.indices.min()), int(test.indices.max())
            raise InputError(
                f"--input {index}: not in the run's test set of {len(test.indices):,}, "
                f"whose numbers lie between {lowest} and {highest}"
            )
        return test, positions[0]

    def test_inputs(self) -> TracedInputs:
        """The whole test set, read again; InputError where the dataset is not at hand, or not what it was."""
        test = self._test_set(TEST_SET, TEST_SET, ":")
        names = tuple(f"input {number}" for number in test.indices.tolist())
        return TracedInputs(test.inputs, test.indices, test.labels.numpy(), tuple(test.shown), names)

    def traced_of(self, number: int) -> TracedInputs:
        """Those that the run traced of that round, or of any; InputError where it has traced none."""
        rows = self._records(number)
        if not rows:
            raise InputError(f"{self.folder}: the run has traced nothing, and its test set is not at hand: --data DIR")
        return self._of_rows(rows)

    def _test_set(self, why: str, changed: str, instead: str) -> TestData:
        """The test set, read again.

        Args:
            why: what it is needed for, as an error message begins.
            changed: the same, where it is not what it was.
            instead: what else to do, before `--data`.

        Raises:
            InputError: it is not at hand, or not what it was.
        """
        dataset = data_again(self.dataset, self.fingerprint, self.data, why)
        with without_network() if self.data is None else nullcontext():
            test, source = self.read_test_set(dataset)
        if source.fingerprint != self.fingerprint:
            raise InputError(
                f"{changed}, and the dataset is not what it was then ({source.location}){instead} --data DIR, "
                "where the data are now"
            )
        return test

    def picture(self, file: Path) -> TracedInputs:
        """Decoded, resized and normalised as the run's own pictures."""
        if not isinstance(self.form, Pictures):
            raise InputError(f"--image {file}: this run is about texts: --text, or --input INDEX")
        if not file.is_file():
            raise InputError(f"--image {file}: no such file")
        return self._of_split(Split([(str(file), file)], [None]), (file.name,))

    def text(self, text: str) -> TracedInputs:
        """Encoded by the run's tokenizer."""
        if not isinstance(self.form, Texts):
            raise InputError("--text: this run is about pictures: --image FILE, or --input INDEX")
        if not text.strip():
            raise InputError("--text: is empty")
        return self._of_split(Split([("--text", text)], [None]), ("text",))

    def many(self, path: Path) -> TracedInputs:
        """Rows of a table (CSV, TSV, JSON lines, parquet), or pictures in a folder, whose folders may be labels."""
        if not path.exists():
            raise InputError(f"--inputs {path}: no such file or folder")
        files = [path] if path.is_file() else [path / file for file in listed(path)[0]]
        pictures = [file for file in files if file.suffix.lower() in PICTURES and isinstance(self.form, Pictures)]
        tables = [file for file in files if file.suffix.lower() in FORMATS]
        columns = set(input_columns(self.dataset))
        table = next((file for file in tables if columns <= set(column_names(file, self.dataset))), None)
        if pictures and table is not None:
            raise InputError(
                f"--inputs {path}: holds pictures and {table.name}, a table of inputs: give --inputs {table}, or a "
                "folder of pictures alone"
            )
        if pictures:
            labels = [file.parent.name if file.parent.name in self.label_names else None for file in pictures]
            base = path.parent if path.is_file() else path
            names = tuple(str(file.relative_to(base)) for file in pictures)
            return self._of_split(Split([(str(file), file) for file in pictures], labels), names)
        if not tables:
            kinds = ", ".join(suffix[1:] for suffix in FORMATS)
            also = " or pictures" if isinstance(self.form, Pictures) else ""
            raise InputError(f"--inputs {path}: give a table ({kinds}){also}")
        whole = joined([self._table(file, path if path.is_dir() else path.parent) for file in tables])
        names = tuple(f"row {row}" for row in range(len(whole.cells)))
        return self._of_split(whole, names)

    def _table(self, file: Path, root: Path) -> Split:
        if file.suffix.lower() == ".parquet":
            try:
                check_dataset(file, GIVEN)
            except Oversized as error:
                raise InputError(f"--inputs {file}: {error}") from error
            except (OSError, ValueError):  # said below
                pass
        return from_table(
            read_table(file, self.dataset), str(file), Places(file.parent, root), self.dataset, unlabelled=True
        )

    def _of_split(self, split: Split, names: tuple[str, ...]) -> TracedInputs:
        if not split.cells:
            raise InputError("--inputs: there is nothing in it")
        shown, warnings = self._shown(split.cells, names)
        try:
            numbers = asked(split, self.classes, self.dataset.label_column)
        except InputError as error:
            raise InputError(f"--inputs: {error}") from None
        labels = np.array([UNKNOWN if number is None else number for number in numbers], dtype=np.int64)
        return TracedInputs(
            self.encode(shown),
            np.arange(len(labels)),
            labels,
            tuple(shown),
            names,
            new=True,
            warnings=warnings,
            notes=tuple(dict.fromkeys(split.notes)),
        )

    def _shown(self, cells: Sequence[tuple[str, Any]], names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        """Inputs as people see them, pictures read as those of the run were, and what is odd about them."""
        if not isinstance(self.form, Pictures):
            return np.array([text for _, text in cells], dtype=object), ()
        read = decode(cells, self.form.image_size, hashlib.sha256(), self.pictures.reading)
        pixels = read.pixels
        if pixels.shape[-1] < self.form.channels:
            pixels = np.repeat(pixels, self.form.channels, axis=-1)
        elif pixels.shape[-1] > self.form.channels:
            pixels = _grey(pixels)
        return pixels, (*read.lines, *_unlike(pixels, read.shapes, names, self.pictures.look))

    def at_hand(self, number: int) -> NamedInputs | None:
        """Those that the run traced of that round, or of any."""
        records = self._records(number)
        return self._of_rows(records).inputs if records else None

    def traced(self, number: int) -> TracedInputs:
        """The same, with their labels; InputError where the run has traced nothing."""
        records = list({record["input"]: record for record in self._records(number)}.values())
        if not records:
            raise InputError(f"{self.folder}: the run has traced nothing")
        return self._of_rows(records)

    def _records(self, number: int) -> list[dict[str, Any]]:
        """What the run recorded of the inputs that it traced of that round, or of any."""
        kind = "text" if isinstance(self.form, Texts) else "picture"
        with readable(self.folder / "inputs.parquet") as path:
            rows = run_table(path, ["round", "input", "label", kind])
        of_round = rows[rows["round"] == number]
        chosen = of_round if len(of_round) else rows
        return [{str(name): cell for name, cell in row.items()} for row in chosen.to_dict("records")]

    def _traced(self) -> pd.DataFrame:
        """Round and number of every input that the run traced."""
        with readable(self.folder / "inputs.parquet") as path:
            return run_table(path, ["round", "input"])

    def _row(self, position: int) -> dict[str, Any]:
        """All that the run recorded of one of them."""
        with readable(self.folder / "inputs.parquet") as path, pq.ParquetFile(path) as file:
            group = 0
            while position >= file.metadata.row_group(group).num_rows:
                position -= file.metadata.row_group(group).num_rows
                group += 1
            row = file.read_row_group(group).slice(position, 1).to_pandas()
            return dict(checked(row, path.name, ("round", "input", "label", "picture", "text")).iloc[0])

    def _of_rows(self, rows: Sequence[Mapping[str, Any]], chosen: bool = False) -> TracedInputs:
        """Inputs as the run recorded them: a picture without loss, or the whole text."""
        kind = "text" if isinstance(self.form, Texts) else "picture"
        if any(kind not in row for row in rows):
            raise RunError(f"{self.folder / 'inputs.parquet'} has no column {kind}, which the run's model reads")
        cells = [(f"input {row['input']}", row[kind]) for row in rows]
        shown, _ = self._shown(cells, [where for where, _ in cells])
        return TracedInputs(
            self.encode(shown),
            np.array([row["input"] for row in rows]),
            np.array([row["label"] for row in rows]),
            tuple(shown),
            tuple(where for where, _ in cells),
            chosen,
        )


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """Raise RunError where the file cannot be read, or is far larger than a run writes."""
    try:
        yield path
    except Oversized as error:
        raise RunError(f"{path} is not opened: {error}") from error
    except WrongContent as error:
        raise RunError(f"{path} {error}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _unlike(
    pixels: np.ndarray, shapes: Sequence[tuple[int, int]], names: Sequence[str], look: Look | None
) -> tuple[str, ...]:
    """Which pictures do not look like those that the model was trained on: a sentence, of many the first as example."""
    if look is None:
        return ()
    odd = [(name, unlike(picture, shape, look)) for picture, shape, name in zip(pixels, shapes, names, strict=True)]
    strange = [(name, reasons) for name, reasons in odd if reasons]
    if not strange:
        return ()
    name, reasons = strange[0]
    why = "; ".join(reasons)
    if len(pixels) == 1:
        return (f"{name} is unlike the training data: {why}",)
    return (f"{len(strange):,} of {len(pixels):,} pictures are unlike the training data, such as {name}: {why}",)


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(picture).convert("L"))[..., np.newaxis] for picture in pixels])
