"""Optimise, verify, cache and load machine code.

Object code is kept in the user's cache folder, one file a module, keyed by everything that it
depends on. A file is run only if its digest is right; a damaged one is compiled anew.
"""

import gc
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import llvmlite.ir as ir

from cellwright.cpu.machine.target import Target
from cellwright.errors import CacheWarning, CompileError
from cellwright.locks import ForkLock

__all__ = ["Code", "cache_folder", "load"]

_MAGIC = b"cellwright object 1\n"
_lock = ForkLock()
_loaded: dict[str, "Code"] = {}


class Code:
    """Loaded machine code. It keeps the engine, so that no function outlives its memory."""

    def __init__(self, engine: llvm.ExecutionEngine, functions: list[str], compiled: bool) -> None:
        self._engine = engine
        self.compiled = compiled
        self.address = {name: engine.get_function_address(name) for name in functions}
        missing = [name for name, address in self.address.items() if not address]
        if missing:
            raise CompileError(f"the object code lacks {', '.join(missing)}")


def cache_folder() -> Path:
    """Return the folder of compiled kernels: CELLWRIGHT_CACHE_DIR, or the user's cache folder."""
    named = os.environ.get("CELLWRIGHT_CACHE_DIR")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "cellwright" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cellwright"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellwright"


@lru_cache(maxsize=1)
def _sources() -> str:
    """Digest of what emits code, so that an edited emitter never meets old object code."""
    cpu = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*cpu.rglob("*.py"), *(cpu.parent / "graph").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(target: Target, key: str, functions: list[str], emit: Callable[[], ir.Module]) -> Code:
    """Return the machine code of a module, from memory, from disk, or compiled now.

    Args:
        target: the instruction set.
        key: all that the module depends on besides the target and the library's own source.
        functions: the names to look up.
        emit: makes the module; called only when it has to be compiled.

    Raises:
        CompileError: LLVM cannot verify or compile the module.
    """
    versions = (llvmlite.__version__, llvm.llvm_version_info, _sources())
    whole = repr((key, target.name, target.cpu, target.features, versions))
    digest = hashlib.sha256(whole.encode()).hexdigest()
    with _lock:
        if digest not in _loaded:
            path = cache_folder() / f"{digest[:40]}.o"
            stored = _read(path, digest)
            if stored is None:
                with _Collector.resting():
                    stored = _compile(target, emit())
                _write(path, digest, stored)
                _loaded[digest] = _link(target, stored, functions, True)
            else:
                _loaded[digest] = _link(target, stored, functions, False)
        return _loaded[digest]


class _Collector:
    """Python's cycle collector, which rests while code is made.

    It would go through all that torch has made, again and again, and find nothing: what an emitter
    makes is there until its module is compiled.
    """

    rests = False

    @classmethod
    @contextmanager
    def resting(cls) -> Iterator[None]:
        """Disable it for a while, unless it is."""
        cls.rests = cls.rests or gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            cls.wake()

    @classmethod
    def wake(cls) -> None:
        """Enable it if it rests; in a forked child too, where the thread that would is not."""
        if cls.rests:
            cls.rests = False
            gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Collector.wake)


def _read(path: Path, digest: str) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head = _MAGIC + digest.encode() + b"\n"
    body = content[len(head) + 65 :]
    seal = hashlib.sha256(body).hexdigest().encode() + b"\n"
    return body if content.startswith(head + seal) else None


def _write(path: Path, digest: str, code: bytes) -> None:
    """Write atomically: another process sees the whole file or none."""
    seal = hashlib.sha256(code).hexdigest().encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(_MAGIC + digest.encode() + b"\n" + seal + code)
        Path(file.name).replace(path)
    except OSError as error:
        warnings.warn(
            f"compiled kernels cannot be kept in {path.parent}: {error}; each process compiles "
            "them anew. Set CELLWRIGHT_CACHE_DIR to a folder that can be written",
            CacheWarning,
            stacklevel=2,
        )


def _compile(target: Target, module: ir.Module) -> bytes:
    module.triple = llvm.get_default_triple()
    machine = target.machine()
    module.data_layout = str(machine.target_data)
    try:
        parsed = llvm.parse_assembly(_widen(str(module), target))
        parsed.verify()
        # The code is written as it should run: vectors, unrolled as far as they should be. What is
        # left is to find equal values; LLVM's own pipelines take ten times as long for the same.
        passes = llvm.create_new_module_pass_manager()
        passes.add_new_gvn_pass()
        passes.run(parsed, llvm.create_pass_builder(machine, llvm.PipelineTuningOptions()))
        code: bytes = machine.emit_object(parsed)
    except RuntimeError as error:
        raise CompileError(f"LLVM could not compile {module.name}: {error}") from error
    return code


def _widen(assembly: str, target: Target) -> str:
    """Allow registers as wide as the target's: some CPUs are tuned for narrower ones."""
    if target.bits < 512:
        return assembly
    lines = assembly.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("define"):
            lines[i] = line + ' "min-legal-vector-width"="512" "prefer-vector-width"="512"'
    return "\n".join(lines)


def _link(target: Target, code: bytes, functions: list[str], compiled: bool) -> Code:
    try:
        empty = llvm.parse_assembly("")
        engine = llvm.create_mcjit_compiler(empty, target.machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
    except RuntimeError as error:
        raise CompileError(f"the object code could not be loaded: {error}") from error
    return Code(engine, functions, compiled)
