"""Builds the CPU kernels into the package, as hatchling's hook and by `python hatch_build.py`.

Without a C++ compiler, or with one that fails, the build succeeds all the same: what went wrong
stands in KERNELS_MISSING beside where the library would be, and `sgekit checks` prints it.
SGEKIT_KERNELS=0 leaves the kernels out; SGEKIT_KERNELS=1 makes it an error that they can't be
built. CXX names the compiler, CXXFLAGS adds to its options.
"""

import contextlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

OPS = Path(__file__).parent / "src" / "sgekit" / "ops"
SOURCES = OPS / "csrc"
LIBRARY = OPS / "libsgekit_cpu.so"
MISSING = OPS / "KERNELS_MISSING"

OPTIONS = [
    "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti",
    # No errno: roots are one instruction. Products and sums may fuse, alike in every position.
    "-fno-math-errno", "-ffp-contract=fast",
    # GCC's own headers warn about what they leave undefined on purpose.
    "-Wall", "-Wextra", "-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized",
]  # fmt: skip
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]


class CannotBuildError(Exception):
    """Why there are no kernels, in one line."""


def find_compiler() -> list[str]:
    """The command of a C++ compiler. Raises CannotBuildError where there is none."""
    if sys.platform == "win32":
        raise CannotBuildError("the kernels are not built on Windows")
    if named := os.environ.get("CXX"):
        command = shlex.split(named)
        if shutil.which(command[0]) is None:
            raise CannotBuildError(f"the compiler that CXX names, {named}, was not found")
        return command
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise CannotBuildError("no C++ compiler was found (c++, g++, clang++) when it was installed")


def steps(compiler: list[str], out: Path, options: list[str]) -> list[list[str]]:
    """The commands that make the objects, all of which may run at the same time."""
    sets = {"baseline": []}
    define = []
    if platform.machine().lower() in ("x86_64", "amd64"):
        sets |= {"avx2": AVX2, "avx512": AVX512}
        define = ["-DSGEKIT_X86"]
    common = [*compiler, *OPTIONS, *options, *define]
    commands = [[*common, "-c", str(SOURCES / "dispatch.cpp"), "-o", str(out / "dispatch.o")]]
    for name, flags in sets.items():
        table = f"-DSGEKIT_TABLE=sgekit_{name}"
        target = ["-o", str(out / f"{name}.o")]
        commands.append([*common, *flags, table, "-c", str(SOURCES / "kernels.cpp"), *target])
    return commands


def run_all(commands: list[list[str]]) -> None:
    """Run at the same time. Raises CannotBuildError with the first error that a compiler prints."""
    running = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    printed = [process.communicate()[0] for process in running]
    for process, text in zip(running, printed, strict=True):
        if process.returncode != 0:
            errors = [line for line in text.splitlines() if "error" in line] or text.splitlines()
            why = errors[0] if errors else f"exit code {process.returncode}"
            raise CannotBuildError(f"the compiler {process.args[0]} failed: {why.strip()}")  # type: ignore[index]


def compile_library() -> None:
    """Build LIBRARY, or raise CannotBuildError."""
    compiler = find_compiler()
    options = shlex.split(os.environ.get("CXXFLAGS", ""))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        commands = steps(compiler, out, options)
        run_all(commands)
        # OpenMP's runtime is left to be found among what PyTorch has loaded.
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        unused = [] if sys.platform == "darwin" else ["-Wl,--as-needed"]
        made = out / LIBRARY.name
        objects = [command[-1] for command in commands]
        run_all([[*compiler, *options, "-shared", *unused, *undefined, *objects, "-o", str(made)]])
        # Never written in place: a process may have it loaded.
        partial = LIBRARY.with_suffix(".partial")
        shutil.copyfile(made, partial)
        partial.replace(LIBRARY)


def build() -> str | None:
    """Make LIBRARY or MISSING. None, or why there are no kernels."""
    wanted = os.environ.get("SGEKIT_KERNELS", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"SGEKIT_KERNELS must be 0 or 1, not {wanted!r}")
    try:
        if wanted == "0":
            raise CannotBuildError("they were left out with SGEKIT_KERNELS=0")
        compile_library()
    except CannotBuildError as error:
        if wanted == "1":
            raise SystemExit(f"SGEKIT_KERNELS=1, but {error}") from None
        with contextlib.suppress(FileNotFoundError):
            LIBRARY.unlink()
        MISSING.write_text(f"{error}\n", encoding="utf-8")
        return str(error)
    with contextlib.suppress(FileNotFoundError):
        MISSING.unlink()
    return None


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # python hatch_build.py, outside a build
    pass
else:

    class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
        """Adds the library to wheels and to editable installations, and tags the wheel."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            why = build()
            if why is not None:
                self.app.display_warning(f"sgekit: no fused CPU kernels: {why}")
                build_data["artifacts"].append(f"/{MISSING.relative_to(self.root)}")
                return
            build_data["artifacts"].append(f"/{LIBRARY.relative_to(self.root)}")
            build_data["pure_python"] = False
            # Any Python 3: it is loaded with ctypes.
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{system}"


if __name__ == "__main__":
    if (reason := build()) is not None:
        sys.exit(f"no kernels: {reason}")
    print(LIBRARY)
