"""How processes find each other: the flags of it."""

import dataclasses

from jaxgpt.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How processes find each other. Under SLURM, Open MPI, Kubernetes and torchrun --distributed says it all."""

    distributed: bool = False
    """This is one of several processes."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where no launcher tells it."""
    process_id: int | None = None
    """This process's number, from 0."""
    num_processes: int | None = None
    """How many there are."""
    connect_seconds: int = 300
    """How long to wait for the other processes at the start."""

    def __post_init__(self) -> None:
        explicit = {"coordinator": self.coordinator, "process-id": self.process_id, "num-processes": self.num_processes}
        missing = [f"--{name}" for name, value in explicit.items() if value is None]
        if 0 < len(missing) < len(explicit):
            raise UserError(f"{' and '.join(missing)} must be given too: the three say together who this process is")
        if not missing and not 0 <= (self.process_id or 0) < (self.num_processes or 0):
            raise UserError(
                f"--process-id {self.process_id} must be at least 0 and below --num-processes {self.num_processes}"
            )
        if self.coordinator is not None and not is_address(self.coordinator):
            raise UserError(f"--coordinator {self.coordinator!r} must be HOST:PORT, such as node1:12345")
        if self.connect_seconds < 1:
            raise UserError(f"--connect-seconds {self.connect_seconds} must be at least 1")

    @property
    def is_multiprocess(self) -> bool:
        return self.distributed or self.coordinator is not None


def is_address(text: str) -> bool:
    """Whether a text is HOST:PORT."""
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 2**16
