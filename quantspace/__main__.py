"""`python -m quantspace MODEL --gpu t4`: the terminal (`cli.py`)."""

from .cli import main

if __name__ == "__main__":
    main()
