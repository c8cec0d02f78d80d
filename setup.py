"""What pyproject.toml cannot say: `cli` under a name of its own, and the documents in the wheel.

`cli` installs as `apot_export_cli`, so that no module named `cli` lands in a user's site-packages;
pyproject.toml can find packages or rename one, not both. The documents go to
`share/doc/apot-export` of the environment, in the folders that they have here.
"""

from itertools import groupby
from pathlib import Path

from setuptools import find_packages, setup

DOCUMENTS = [*Path().glob("*.md"), *(path for path in Path("docs").rglob("*") if path.is_file())]

setup(
    packages=[*find_packages(include=["apot_export*"]), "apot_export_cli"],
    package_dir={"apot_export_cli": "cli"},
    data_files=[
        (f"share/doc/apot-export/{folder}", [str(path) for path in paths])
        for folder, paths in groupby(sorted(DOCUMENTS, key=lambda p: p.parent), lambda p: p.parent)
    ],
)
