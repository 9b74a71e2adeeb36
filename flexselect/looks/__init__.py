"""Look twice: find candidates in a cheap first look, and see only these in full."""
