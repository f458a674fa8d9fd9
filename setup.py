"""Maps the top-level folders into the package ``kdbench``, whose own files are in harness/package.

Everything else is in pyproject.toml.
"""

from setuptools import find_packages, setup

FOLDERS = ["harness", "trainers", "tasks", "reports"]
TOP = "harness/package"

setup(
    packages=[
        "kdbench",
        *(
            f"kdbench.{package}"
            for package in find_packages(
                include=[glob for folder in FOLDERS for glob in (folder, f"{folder}.*")],
                exclude=[TOP.replace("/", ".")],
            )
        ),
    ],
    package_dir={"kdbench": TOP, **{f"kdbench.{folder}": folder for folder in FOLDERS}},
)
