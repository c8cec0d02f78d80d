"""The packages: all of `apot_export`, and the folder `cli` under a name of its own.

`cli` installs as `apot_export_cli`, so that no module named `cli` lands in a user's site-packages;
pyproject.toml can find packages or rename one, not both.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["apot_export*"]), "apot_export_cli"],
    package_dir={"apot_export_cli": "cli"},
)
