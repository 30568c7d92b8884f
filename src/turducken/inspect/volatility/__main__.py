"""Print the folder for Volatility's ``--plugin-dirs``."""

from turducken.inspect.volatility import PLUGIN_DIRECTORY

print(PLUGIN_DIRECTORY)
