"""Print the path of the file that gdb is to ``source``."""

from turducken.gdb.extension import PATH

print(PATH)
