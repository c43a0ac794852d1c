"""``python -m pipeline`` does what the console command does."""

from pipeline.commands.console import main

if __name__ == "__main__":
    main()
