"""Arrays and plain words in files.

`storage` (one checked safetensors file), `description` (rows and parameters in plain words, and back), `moved` (the
modules that pickles of 0.1.0 name).
"""
