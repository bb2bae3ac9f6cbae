"""Many machines: each prepares a share of the files, and one joins what they made. They never speak to each other."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from jaxgpt.data.preparation.inputs import STDIN, Input
from jaxgpt.data.preparation.manifest import NAME, is_prepared, make_manifest, read_manifest, write_json
from jaxgpt.data.preparation.shard_writer import FILE_NAMES, Shard
from jaxgpt.data.tokenizer import from_spec
from jaxgpt.errors import UserError


def parse_part(part: str) -> tuple[int, int]:
    """I/N as two numbers."""
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not int(match[1]) < int(match[2]):
        raise UserError(f"--part {part} must be I/N with I from 0 to N - 1, such as 0/8")
    return int(match[1]), int(match[2])


def part_folder(folder: Path, part: str) -> Path:
    number, count = parse_part(part)
    return folder / f"part-{number}-of-{count}"


def share(inputs: tuple[Input, ...], part: str) -> tuple[Input, ...]:
    """The files of one part: those that follow each other in the order, about as many bytes for each part."""
    number, count = parse_part(part)
    if any(source.path == STDIN for source in inputs):
        raise UserError("--part shares out files, and standard input is none: pipe into each part its own share")
    if len(inputs) < count:
        raise UserError(f"--part {part} needs at least {count} files, and there are {len(inputs)}: use fewer parts")
    total, before, mine = sum(source.size for source in inputs), 0, []
    for index, source in enumerate(inputs):
        middle = (before + source.size / 2) / total if total else index / len(inputs)
        before += source.size
        if int(middle * count) == number:
            mine.append(source)
    if not mine:
        raise UserError(f"--part {part} has nothing to do, as one file holds most of the bytes: use fewer parts")
    return tuple(mine)


def join(folder: Path) -> dict[str, Any]:
    """Give the shards of all parts in a folder their places in the order of the whole; returns the manifest.

    It may be stopped and started again.

    Raises:
        UserError: A part is missing or not whole, or parts were prepared in different ways.
    """
    if is_prepared(folder):
        return read_manifest(folder)
    found = sorted(folder.glob("part-*-of-*"), key=lambda path: int(path.name.split("-")[1]))
    counts = {path.name.split("-of-")[1] for path in found}
    if len(counts) != 1 or len(found) != int(counts.pop()):
        raise UserError(
            f"{folder} holds {', '.join(path.name for path in found) or 'no parts'}: all parts of one preparation are "
            "needed, as `jaxgpt data prepare --part I/N` makes them"
        )
    manifests = [read_manifest(part) for part in found]
    for name in ("tokenizer", "settings", "shard_tokens"):
        if any(manifest["made_from"][name] != manifests[0]["made_from"][name] for manifest in manifests):
            raise UserError(f"the parts in {folder} were prepared with different {name}: prepare them alike")
    shards = []
    for split, file_name in FILE_NAMES.items():
        files = [(part, one) for part, made in zip(found, manifests) for one in made["shards"] if one["split"] == split]
        for number, (part, shard) in enumerate(files):
            new = folder / file_name.format(number)
            new.unlink(missing_ok=True)
            try:
                os.link(part / shard["file"], new)
            except OSError:  # a file system without links
                shutil.copyfile(part / shard["file"], new)
            shards.append(Shard(**{**shard, "file": new.name}))
    inputs = [source for manifest in manifests for source in manifest["made_from"]["inputs"]]
    left_out = {kind: sum(manifest["left_out"][kind] for manifest in manifests) for kind in manifests[0]["left_out"]}
    manifest = make_manifest(
        from_spec(manifests[0]["tokenizer"]),
        sorted(shards, key=lambda shard: shard.split),
        {"made_from": {**manifests[0]["made_from"], "inputs": inputs}, "left_out": left_out},
    )
    write_json(folder / NAME, manifest)
    for part in found:
        shutil.rmtree(part)
    return manifest
