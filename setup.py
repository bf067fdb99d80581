"""The kernels of seerec.kernels, compiled once for each generation of processors; everything else is in pyproject.toml.

GCC is not required: what fails to compile is left out, and torch's own operations do the work.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup

FOLDER = "src/seerec/kernels"
GENERATIONS = {"x86_64": ("x86-64", "x86-64-v3", "x86-64-v4"), "AMD64": ()}  # Windows' compiler has no such vectors
FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fvisibility=hidden"]

setup(
    ext_modules=[
        Extension(
            f"seerec.kernels.native_{generation.replace('-', '_')}",
            sorted(str(file) for file in Path(FOLDER).glob("*.cpp")),
            depends=sorted(str(file) for file in Path(FOLDER).glob("*.h")),
            extra_compile_args=[*FLAGS, *([f"-march={generation}"] if generation != "generic" else [])],
            extra_link_args=["-fopenmp"],
            language="c++",
            optional=True,
        )
        for generation in GENERATIONS.get(platform.machine(), ("generic",))
    ]
)
