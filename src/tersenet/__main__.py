"""``python -m tersenet`` is the command ``tersenet``."""

from tersenet.cli.main import main

main()
