"""Maps the top-level folders to the namespace package ``kdbench``; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ["harness", "trainers", "tasks", "reports"]

setup(
    packages=[
        f"kdbench.{package}"
        for package in find_packages(
            include=[glob for folder in FOLDERS for glob in (folder, f"{folder}.*")]
        )
    ],
    package_dir={f"kdbench.{folder}": folder for folder in FOLDERS},
)
