from pathlib import Path


def bring_up_to_date(path: Path) -> None:
    pass
