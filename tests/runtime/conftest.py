"""A small disk; and the table of faults and moments, printed when its tests are done."""

import contextlib
import os
import subprocess

import pytest

TABLE = "a row of the table of faults"
HEADER = f"{'fault':<12} {'moment':<18} {'meets it':>9} {'its code':>9} {'the other':>10} {'seconds':>8}"


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A row for each fault at each moment: who met it, both exit codes, the seconds until the end of both."""
    rows = [
        f"{value}{'' if outcome == 'passed' else '   NOT AS EXPECTED'}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == TABLE
    ]
    if rows:
        terminalreporter.section("two processes, one of which meets a fault")
        terminalreporter.write_line(HEADER)
        for row in rows:
            terminalreporter.write_line(row)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB that is mounted, or None where this user cannot mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    yield folder if mounted else None
    if mounted:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
