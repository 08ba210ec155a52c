"""Goes through pictures and videos with a detector, and leaves drawn ones and lists of what it found."""

import contextlib
import glob
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detect_prune.datasets import read_picture
from detect_prune.datasets.picture import PICTURE_SUFFIXES, CorruptPicture
from detect_prune.datasets.video import VIDEO_SUFFIXES, CorruptVideo, Video
from detect_prune.errors import DetectPruneError
from detect_prune.files import atomic_path, list_folder, write_json, write_text
from detect_prune.report.figures import JPEG_SIDE, draw_boxes, save_picture
from detect_prune.report.labels import label_lines, records
from detect_prune.report.progress import Progress
from detect_prune.report.video import UnwritableVideo, write_video
from detect_prune.structures import Detections


@dataclass
class Finder:
    """Runs a detector over files: draws each as NAME.jpg or NAME.mp4, lists what was found, and counts.

    Args:
        find: (height, width, 3) uint8 RGB -> what is found there, in pixels, with names.
        save_txt: write NAME.txt, or NAME/000001.txt and so on for the frames of a video, as `label_lines` has it.
        save_json: write NAME.json, the list of a picture's `records`; for a video a list of such lists.
    """

    find: Callable[[np.ndarray], Detections]
    save_txt: bool = False
    save_json: bool = False
    seen: int = field(default=0, init=False)
    """Pictures, and frames of videos."""
    objects: int = field(default=0, init=False)
    skipped: list[str] = field(default_factory=list, init=False)
    """A sentence for each file that could not be read, or not to its end, or is too large to be drawn."""

    def go_through(self, files: Sequence[Path], out: Path) -> None:
        """All pictures, then all videos; what comes of them lies in `out`.

        Raises:
            DetectPruneError: something can't be written there, or a link there leads to one of the originals. What
                can't be read is skipped.
        """
        targets = [(path, out / name) for path, name in zip(files, output_names(files))]
        originals = {os.path.realpath(path) for path in files}
        for _, stem in targets:
            for made in (_with_ending(stem, ending) for ending in (".jpg", ".mp4", ".txt", ".json")):
                if os.path.lexists(made) and os.path.realpath(made) in originals:
                    raise DetectPruneError("this is a link to one of the originals; give another --out", file=made)
        videos = [target for target in targets if target[0].suffix.lower() in VIDEO_SUFFIXES]
        pictures = [target for target in targets if target not in videos]
        if pictures:
            with Progress(len(pictures), "detect") as progress:
                for path, stem in pictures:
                    self._picture(path, stem)
                    progress.step(objects=str(self.objects))
        for path, stem in videos:
            self._video(path, stem)

    def _picture(self, path: Path, stem: Path) -> None:
        try:
            picture = read_picture(path, upright=True)
        except CorruptPicture as error:
            self.skipped.append(str(error))
            return
        if max(picture.shape) > JPEG_SIDE:
            self.skipped.append(f"{path}: more than {JPEG_SIDE:,} pixels a side, which no JPEG can have")
            return
        found = self._found(picture)
        save_picture(_with_ending(stem, ".jpg"), draw_boxes(picture, found))
        if self.save_txt:
            write_text(_with_ending(stem, ".txt"), label_lines(found, picture.shape[1::-1]))
        if self.save_json:
            write_json(_with_ending(stem, ".json"), records(found))

    def _video(self, path: Path, stem: Path) -> None:
        try:
            with Video(path) as video, Progress(video.frames_promised or None, path.name) as progress:
                done, stopped = self._frames(video, video.rate, stem, progress.step)
        except (CorruptVideo, UnwritableVideo) as error:
            self.skipped.append(str(error))
            return
        if stopped:
            print(f"{path}: stopped; its first {done} frames are kept")
            raise KeyboardInterrupt
        if done < video.frames_promised:
            self.skipped.append(f"{path}: its last {video.frames_promised - done} frames can't be read")

    def _frames(
        self, frames: Iterable[np.ndarray], rate: float, stem: Path, step: Callable[..., None]
    ) -> tuple[int, bool]:
        """Goes through the frames; how many were done, and whether Ctrl-C ended it, which keeps what was done."""
        done, stopped = 0, False
        frames = iter(frames)
        first = next(frames)
        size = first.shape[1::-1]
        with contextlib.ExitStack() as stack:
            show = stack.enter_context(write_video(_with_ending(stem, ".mp4"), size, rate))
            for old in stem.glob("*.txt") if self.save_txt else ():
                if re.fullmatch(r"\d{6,}", old.stem):
                    old.unlink()  # of another video that was written here before, which may have been longer
            if self.save_json:
                # Written as it comes: the frames of a long video are too many to be kept.
                listed = stack.enter_context(open(stack.enter_context(atomic_path(_with_ending(stem, ".json"))), "w"))
            try:
                for number, frame in enumerate(itertools.chain([first], frames), 1):
                    found = self._found(frame)
                    show(draw_boxes(frame, found))
                    if self.save_txt:
                        write_text(stem / f"{number:06}.txt", label_lines(found, size))
                    if self.save_json:
                        listed.write(("[" if number == 1 else ",\n") + json.dumps(records(found)))
                    done = number
                    step(objects=str(self.objects))
            except KeyboardInterrupt:
                if not done:
                    raise
                stopped = True
            if self.save_json:
                listed.write("]\n")
        return done, stopped

    def _found(self, picture: np.ndarray) -> Detections:
        found = self.find(picture)
        self.seen += 1
        self.objects += len(found)
        return found


def _with_ending(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def output_names(files: Sequence[Path]) -> list[str]:
    """A name for what is made of each file, no two things alike, also where the disk does not tell A from a. A long one
    is cut, so that a number and an ending have room."""
    names: list[str] = []
    taken: set[str] = set()
    for path in files:
        # The frames' text lies in a folder without an ending, which the files of another source may have for a name.
        endings = ("", ".mp4", ".json") if path.suffix.lower() in VIDEO_SUFFIXES else (".jpg", ".txt", ".json")
        plain, whole = (_cut(name) for name in (path.stem, path.name))
        numbered = (f"{whole}-{number}" for number in itertools.count(2))
        for name in itertools.chain((plain, whole), numbered):
            made = {(name + ending).casefold() for ending in endings}
            if not made & taken:
                break
        taken |= made
        names.append(name)
    return names


def _cut(name: str) -> str:
    """At most 240 of the 255 bytes that a file's name may have."""
    while len(os.fsencode(name)) > 240:
        name = name[:-1]
    return name


def find_sources(sources: Sequence[str]) -> list[Path]:
    """The pictures and videos that paths, folders and patterns stand for: each once, those of a folder in order.

    Raises:
        DetectPruneError: a source stands for none.
    """
    known = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
    files: list[Path] = []
    for source in sources:
        if os.path.isfile(source):  # unlike Path.is_file, not upset by a name that is too long
            files.append(Path(source))
            continue
        if os.path.isdir(source):
            inside = [Path(source) / name for name in list_folder(source, "pictures or videos")]
        elif glob.has_magic(source):
            inside = [Path(name) for name in glob.glob(source, recursive=True)]
        else:
            raise DetectPruneError("no such file or folder; a picture, a video or a folder was expected", file=source)
        found = sorted(file for file in inside if os.path.isfile(file) and file.suffix.lower() in known)
        if not found:
            raise DetectPruneError(
                f"no pictures or videos here; files ending in {', '.join(known)} were expected", file=source
            )
        files += found
    each_once: dict[str, Path] = {}
    for file in files:
        each_once.setdefault(os.path.realpath(file), file)
    return list(each_once.values())
