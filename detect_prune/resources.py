"""Where a bare name such as `yolov4.cfg` or `coco.yaml` is looked up."""

import os
from pathlib import Path

from detect_prune.errors import DetectPruneError
from detect_prune.files import first_file

_PACKAGE = Path(__file__).resolve().parent


def packaged_folder(kind: str) -> Path:
    """The folder `cfg` or `data` that travels with the package: inside it in a wheel, beside it in a checkout."""
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def is_installed() -> bool:
    """Whether the package is a wheel's, with its folders inside, and not a checkout."""
    return (_PACKAGE / "data").is_dir()


def find_resource(kind: str, name: str | Path) -> Path:
    """Finds a file: the path as given, then `kind`/name in the working folder, then the packaged copy.

    Args:
        kind: `cfg` or `data`.
        name: a path, or a bare file name with or without its usual ending (`.cfg`, `.yaml`).

    Raises:
        DetectPruneError: there is no such file; the message lists the names that the package has.
    """
    text, name = str(name), Path(name)
    if not name.name:
        raise DetectPruneError(f"'{text}' is not the name of a file; a path or a bare name was expected")
    suffix = {"cfg": ".cfg", "data": ".yaml"}[kind]
    names = [name, Path(f"{name}{suffix}")]
    folders = [Path(), Path(kind), packaged_folder(kind)]
    if found := first_file(folder / candidate for folder in folders for candidate in names):
        return found
    if os.path.isdir(name):
        raise DetectPruneError(f"this is a folder; the name of a {suffix} file was expected", file=name)
    known = ", ".join(sorted(path.name for path in packaged_folder(kind).glob(f"*{suffix}")))
    raise DetectPruneError(
        f"no such file, neither as given nor in ./{kind} nor in the package (which has {known})", file=name
    )
