"""The oracle of test_torch.py: transformers' GPT-2 trained by torch's AdamW, alone or as DDP over Gloo.

Run as a program: FOLDER holds the model, batches.npy and options.json; MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE
are torch's own. The first process writes losses.json.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import transformers


def main(folder: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    options = json.loads((folder / "options.json").read_text())
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder / "model")
    model.train()
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": options["decay"]}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=options["betas"], eps=1e-8)
    losses = []
    for batch, rate in zip(torch.tensor(np.load(folder / "batches.npy")).long(), options["rates"], strict=True):
        rows = batch.chunk(world)[rank]
        logits = wrapped(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options["clip"])
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
        mean = loss.detach() / world
        torch.distributed.all_reduce(mean)
        losses.append(mean.item())
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(losses))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
