"""The folder of a checkpoint, which every rank and the driver must see. Imports no torch: the driver reads it too."""

from pathlib import Path

SHARED_FOLDER_REMEDY = "set run_dir to a folder on a file system that all nodes share"


def require_folder(folder: Path) -> None:
    """Raises FileNotFoundError where this process does not see the folder.

    It is not created here, because it could then be private to the node.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder on this node; {SHARED_FOLDER_REMEDY}")
