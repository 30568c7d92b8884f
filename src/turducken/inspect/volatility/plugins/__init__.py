"""Only for Volatility, which imports the files of this folder."""
