/* The library's version; see native.py. */
int tasador_abi(void);
int tasador_abi(void) { return 4; }
