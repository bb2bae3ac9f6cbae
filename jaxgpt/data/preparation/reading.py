"""Blocks of about a megabyte from one input after another: what a worker tokenises at once."""

import codecs
import io
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple

from jaxgpt.data.preparation.compression import DAMAGED, open_compressed
from jaxgpt.data.preparation.inputs import COMPRESSED, HUB, STDIN, Input, Split
from jaxgpt.data.pretokens import pieces
from jaxgpt.errors import UserError

BLOCK = 1 << 20
"""Bytes, about; a document that is longer is a block of its own, or of text several."""
LONGEST_LINE = 1 << 28
"""Bytes of a line of JSON, which is read at once."""


class Place(NamedTuple):
    """Where in the input: the number of the file, and of the line, row or character in it, from 0."""

    file: int
    at: int


START = Place(0, 0)


@dataclass(frozen=True)
class Block:
    """Some documents, or a piece of one long document."""

    kind: Literal["file", "line", "row", "piece"]
    documents: Any
    """file: pairs of a name and the bytes of a whole text file. line: bytes with lines of JSON. row: texts. piece:
    texts that are one document together, or a part of it."""
    name: str
    """Of the file; of several, the first."""
    first: Place
    after: Place
    """What is read next."""
    split: Split | None
    begins: bool = True
    """Whether a piece is the first of its document."""
    ends: bool = True
    """Whether it is the last."""
    alone: bool = False
    """Whether no <|endoftext|> belongs to its document."""


def read_blocks(inputs: tuple[Input, ...], field: str, errors: str, start: Place) -> Generator[Block]:
    """The blocks of all inputs from a place on that some block had as `after`.

    Raises:
        UserError: A file is damaged, or not what its name says.
    """
    number = start.file
    while number < len(inputs):
        source, at = inputs[number], start.at if number == start.file else 0
        if at == 0 and _is_small(source):
            together = _small_files(inputs, number)
            yield together
            number = together.after.file
            continue
        reader = {"text": _long_text, "lines": _lines, "parquet": _rows, "memory": _texts}[source.kind]
        yield from reader(source, number, at, field, errors)
        number += 1


def _is_small(source: Input) -> bool:
    """Whether a text is read together with others: all of it, as it lies on the disk."""
    is_plain = source.kind == "text" and not source.path.endswith(COMPRESSED)
    return is_plain and 0 < source.size <= BLOCK // 4 and source.characters == (0, None) and not source.alone


def _small_files(inputs: tuple[Input, ...], number: int) -> Block:
    """As many small text files in a row as make a block."""
    first, contents, size = number, [], 0
    while number < len(inputs) and size < BLOCK:
        source = inputs[number]
        if not _is_small(source) or source.split != inputs[first].split:
            break
        contents.append((source.name, _whole(source)))
        size += source.size
        number += 1
    source = inputs[first]
    return Block("file", contents, source.name, Place(first, 0), Place(number, 0), source.split)


def _whole(source: Input) -> bytes:
    """A small file, by as few calls as can be."""
    try:
        with io.FileIO(source.path) as file:
            content = file.read(source.size + 1)  # fewer bytes than requested: end of file
            return content if len(content) == source.size else content + file.readall()
    except OSError as error:
        raise _cannot_be_read(source, error) from None


def _long_text(source: Input, number: int, at: int, field: str, errors: str) -> Iterator[Block]:  # noqa: ARG001
    """One document in pieces that workers share."""
    group: list[str] = []
    place = begin = 0

    def block(after: Place, *, ends: bool) -> Block:
        first = Place(number, begin)
        return Block("piece", group, source.name, first, after, source.split, begin == 0, ends, source.alone)

    for piece in pieces(cut_text(decoded(source, errors), *source.characters)):
        if sum(map(len, group)) + len(piece) > BLOCK and group:
            if begin >= at:
                yield block(Place(number, place), ends=False)
            group, begin = [], place
        group.append(piece)
        place += len(piece)
    if begin >= at:
        yield block(Place(number + 1, 0), ends=True)


def cut_text(chunks: Iterator[str], start: int, stop: int | None) -> Iterator[str]:
    """The characters from `start` up to `stop` of a text that comes in chunks."""
    at = 0
    for chunk in chunks:
        yield chunk[max(0, start - at) : None if stop is None else max(0, stop - at)]
        at += len(chunk)
        if stop is not None and at >= stop:
            return


def _texts(source: Input, number: int, at: int, field: str, errors: str) -> Iterator[Block]:  # noqa: ARG001
    """Documents that are in memory."""
    texts: list[str] = []
    size, first = 0, at

    def block(after: Place) -> Block:
        return Block("row", texts, source.name, Place(number, first), after, source.split, alone=source.alone)

    for row, text in enumerate(source.texts[at:], at):
        if size >= BLOCK:
            yield block(Place(number, row))
            texts, size, first = [], 0, row
        texts.append(text)
        size += len(text)
    yield block(Place(number + 1, 0))


def decoded(source: Input, errors: str) -> Iterator[str]:
    """A text file as it is read. A byte order mark is dropped."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace" if errors == "replace" else "strict")
    offset = 0
    with open_input(source) as file:
        while chunk := _read(file, source, BLOCK):
            try:
                text = decoder.decode(chunk)
                if "\0" in text:
                    raise UserError(f"{source.name} is not text in UTF-8: it holds a zero byte; leave it out")
            except UnicodeDecodeError as error:
                # The decoder prepends what it kept of the chunk before: the offset counts from there.
                raise not_utf8(source.name, offset - (len(error.object) - len(chunk)) + error.start) from None
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(chunk)
        try:
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise not_utf8(source.name, offset - len(error.object)) from None


def not_utf8(name: str, offset: int) -> UserError:
    return UserError(
        f"{name} is not text in UTF-8 (byte {offset:,}): convert it, leave it out, or have such bytes replaced by "
        "--errors replace"
    )


def _lines(source: Input, number: int, at: int, field: str, errors: str) -> Iterator[Block]:  # noqa: ARG001
    """Whole lines, not yet parsed."""
    line, held = 0, b""
    with open_input(source) as file:
        while True:
            chunk = _read(file, source, BLOCK)
            end = chunk.rfind(b"\n")
            cut = len(held) + (end + 1 if chunk else 0) if end >= 0 or not chunk else 0
            held += chunk
            if cut:
                block, held, first = held[:cut], held[cut:], line
                line += block.count(b"\n")
                if first >= at:
                    after = Place(number, line) if chunk else Place(number + 1, 0)
                    yield Block("line", block, source.name, Place(number, first), after, source.split)
            elif len(held) > LONGEST_LINE:
                raise UserError(
                    f"{source.name}:{line + 1} is a line of more than {LONGEST_LINE:,} bytes: "
                    "JSON lines hold a document each; is this text or JSON without lines?"
                )
            if not chunk:
                return


def _rows(source: Input, number: int, at: int, field: str, errors: str) -> Iterator[Block]:  # noqa: ARG001
    """The text column of a parquet file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"{source.name} needs pyarrow: pip install 'jaxgpt[data]'") from None
    with open_input(source) as file:
        try:
            table = pq.ParquetFile(file, buffer_size=BLOCK, pre_buffer=False)
            if field not in table.schema_arrow.names:
                raise UserError(
                    f"{source.name} has no column {field!r}, but {', '.join(table.schema_arrow.names)}: "
                    "name one by --text-field"
                )
            row = group = 0
            while group < table.num_row_groups and row + table.metadata.row_group(group).num_rows <= at:
                row += table.metadata.row_group(group).num_rows
                group += 1
            texts: list[Any] = []
            first, size = max(row, at), 0
            for batch in table.iter_batches(256, row_groups=list(range(group, table.num_row_groups)), columns=[field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if row <= at:
                        continue
                    texts.append(text)
                    size += len(text) if isinstance(text, str) else 0
                    if size >= BLOCK:
                        yield Block("row", texts, source.name, Place(number, first), Place(number, row), source.split)
                        texts, first, size = [], row, 0
            yield Block("row", texts, source.name, Place(number, first), Place(number + 1, 0), source.split)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(source, error) from None


def open_input(source: Input) -> BinaryIO:
    """The bytes of an input, decompressed."""
    if source.path == STDIN:
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False), BLOCK)
    if source.path.startswith(HUB):
        from jaxgpt.data.preparation.hub import open_hub

        return open_hub(source.path)
    try:
        return open_compressed(source.path)
    except OSError as error:
        raise _cannot_be_read(source, error) from None


def _cannot_be_read(source: Input, error: OSError) -> UserError:
    return UserError(f"{source.path} cannot be read ({error.strerror}): check its permissions")


def _read(file: BinaryIO, source: Input, size: int) -> bytes:
    try:
        return file.read(size)
    except DAMAGED as error:
        raise _damaged(source, error) from None


def _damaged(source: Input, error: Exception) -> UserError:
    return UserError(f"{source.name} is damaged or not whole ({error}): get it again, or leave it out")
