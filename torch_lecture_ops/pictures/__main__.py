"""`python -m torch_lecture_ops.pictures`, see command_line.py."""

from .command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
