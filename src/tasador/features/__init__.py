"""Features: one implementation for training and serving, numpy in and numpy out.

Every transformer takes a float64 matrix of any number of rows, one included, and gives the same
numbers for a row whether it comes alone or among others, bit for bit. To keep that promise no
matrix product is used, sums run along the row (`cumsum`, which adds from left to right), and
functions such as `log` see contiguous memory only.
"""
