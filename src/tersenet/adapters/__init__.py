"""Bridges to other libraries, each an extra and one file that alone imports its library."""
