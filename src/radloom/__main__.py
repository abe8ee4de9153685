"""``python -m radloom`` is the command line."""

from radloom.cli import main

if __name__ == "__main__":
    main()
