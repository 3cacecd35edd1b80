/* The library's version; see kernels.py. */
int tasador_abi(void);
int tasador_abi(void) { return 6; }
