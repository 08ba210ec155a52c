"""The runs of a sweep, each a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import RLock
from types import FrameType
from typing import Any

from detect_prune.cli.command import INTERRUPTED
from detect_prune.cli.plan import PLAN, is_finished
from detect_prune.engine.lock import lock_folder
from detect_prune.engine.stop import Stopped, forget_terminal, stopping_signals
from detect_prune.errors import DetectPruneError
from detect_prune.files import remove_unfinished
from detect_prune.numbers import counted


@dataclass(frozen=True)
class ChildRun:
    """A run of `prune` or `train` in the sweep's folder."""

    name: str
    command: str
    words: list[str]


class RunsFailed(DetectPruneError):
    """Some runs of a sweep have failed; `finished` has the folders of the others."""

    def __init__(self, message: str, finished: list[Path]):
        self.finished = finished
        super().__init__(message)


class Runs:
    """Runs of a sweep as processes of their own; finished ones are not run again.

    A run that was begun goes on from its last checkpoint. With room for one run its output is the sweep's, with room
    for several it goes to NAME.log. While entered, what stops the sweep is handed on to the runs.

    Args:
        folder: of the sweep.
        devices: a run at a time on each; one that is named twice takes two.
        changed: options that a run which goes on is given anew.
    """

    def __init__(self, folder: Path, devices: Sequence[str], changed: Sequence[str] = ()):
        self.folder, self.devices, self.changed = folder, list(devices), list(changed)
        self._processes: set[subprocess.Popen] = set()
        self._stopping = False
        """No further run is begun."""
        # Else a process that has just begun, and is in no list yet, would never hear of the stop. Reentrant, since a
        # second signal may interrupt the handler of the first.
        self._beginning = RLock()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Runs":
        for number in stopping_signals():
            self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        forget_terminal(number)
        with self._beginning:
            self._stopping = True
            # On Windows a process can't be sent one, and has had the console's Ctrl-C already.
            for process in self._processes if os.name != "nt" else ():
                process.send_signal(number)

    def finish(self, runs: Sequence[ChildRun]) -> list[Path]:
        """Brings all runs to their end; returns their folders in the same order.

        Raises:
            Stopped: the sweep was asked to stop.
            RunsFailed: some have failed; all others are finished.
        """
        free: Queue[str] = Queue()
        for device in self.devices:
            free.put(device)
        environment = self._environment(len(runs))

        def one(run: ChildRun) -> Path:
            device = free.get()
            try:
                return self._finish_one(run, device, environment)
            except DetectPruneError as error:
                print(error, flush=True)
                raise
            except BaseException:
                self._stopping = True
                raise
            finally:
                free.put(device)

        with ThreadPoolExecutor(len(self.devices)) as pool:
            waiting = [pool.submit(one, run) for run in runs]
        errors = [error for each in waiting if (error := each.exception()) is not None]
        stopped = [error for error in errors if not isinstance(error, DetectPruneError)]
        if stopped:
            # A bug says more than that others have stopped because of it.
            raise next((error for error in stopped if not isinstance(error, Stopped)), stopped[0])
        finished = [each.result() for each in waiting if each.exception() is None]
        if errors:
            first, *rest = errors
            too = f" ({counted(len(rest), 'other run has', 'other runs have')} failed, too)" if rest else ""
            raise RunsFailed(f"{first}{too}; --resume tries again", finished)
        return finished

    def _environment(self, runs: int) -> dict[str, str]:
        """That of this process, and the threads of each of so many runs: together as many as this one may have.

        Finished runs count as well: with other numbers of threads a resumed run would not end at the same bits.
        """
        import torch

        from detect_prune.datasets.batches import RUNS_TOGETHER

        together = min(len(self.devices), runs)
        if together < 2:
            return dict(os.environ)
        threads = str(max(1, torch.get_num_threads() // together))
        return {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            RUNS_TOGETHER: str(together),
        }

    def _folder_of(self, name: str) -> Path:
        # A run on the built-in set says so in its name.
        sample = self.folder / f"{name}-sample"
        return sample if sample.exists() else self.folder / name

    def _finish_one(self, run: ChildRun, device: str, environment: dict[str, str]) -> Path:
        folder = self._folder_of(run.name)
        if is_finished(folder):
            return folder
        if self._stopping:
            raise Stopped(self.folder)
        if (folder / PLAN).exists():
            # It may have outlived the sweep that began it, where that was killed.
            lock_folder(folder).close()
            words = ["--resume", str(folder), *self.changed]
        else:
            _remove_without_plan(folder)
            words = [*run.words, "--project", str(self.folder), "--name", run.name]
        print(f"\n{run.name}, on {device}", flush=True)
        status = self._call([run.command, *words, "--device", device], run.name, environment)
        # The latter where Ctrl-C, sent to the run alone, came before it could answer.
        if status in (INTERRUPTED, -signal.SIGINT) or self._stopping:
            raise Stopped(self.folder)
        if status:
            log = f"; see {self._log(run.name)}" if len(self.devices) > 1 else ""
            raise DetectPruneError(f"the run {run.name} has failed with exit status {status}{log}", file=self.folder)
        return self._folder_of(run.name)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _call(self, words: Sequence[str], name: str, environment: dict[str, str]) -> int:
        command = [sys.executable, "-m", "detect_prune", *words]
        # A group of its own: else Ctrl-C reaches a run twice, and the second one tells it not to save.
        if len(self.devices) == 1:
            return self._wait(self._begin(command, env=environment))
        with open(self._log(name), "ab") as log:
            return self._wait(self._begin(command, env=environment, stdout=log, stderr=subprocess.STDOUT))

    def _begin(self, command: Sequence[str], **options: Any) -> subprocess.Popen:
        with self._beginning:
            if self._stopping:
                raise Stopped(self.folder)
            process = subprocess.Popen(command, process_group=0, **options)
            self._processes.add(process)
            return process

    def _wait(self, process: subprocess.Popen) -> int:
        try:
            return process.wait()
        finally:
            with self._beginning:
                self._processes.discard(process)


def _remove_without_plan(folder: Path) -> None:
    """Removes the folder of a run that was killed before it had written its plan; else the run would find its name
    taken, choose another, and its results would be looked for in vain.

    Raises:
        DetectPruneError: there is something in it.
    """
    try:
        remove_unfinished(folder)
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DetectPruneError(f"is in the way of a run ({error.strerror})", file=folder) from None
