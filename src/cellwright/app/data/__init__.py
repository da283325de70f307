"""Files and tables in, tensors ready to be learned out."""

from cellwright.app.data.atomic import atomic_path, atomic_write, write_table
from cellwright.app.data.bundled import BUNDLED, bundled
from cellwright.app.data.encoding import encode, read_table
from cellwright.app.data.options import Options
from cellwright.app.data.problems import Source, read_problem
from cellwright.app.data.rows import RowEncoder
from cellwright.app.data.text import read_text

__all__ = [
    "BUNDLED",
    "Options",
    "RowEncoder",
    "Source",
    "atomic_path",
    "atomic_write",
    "bundled",
    "encode",
    "read_problem",
    "read_table",
    "read_text",
    "write_table",
]
