"""The files of a bundle: manifest, arrays, integrity, signature."""
